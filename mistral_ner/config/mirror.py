"""The bucket that mirrors a study: ``hyperopt.mirror``, or ``hyperopt.results_dir`` where that names a bucket."""

from __future__ import annotations

import re

from mistral_ner.config.schema import HyperoptConfig
from mistral_ner.errors import Fault

_URL = re.compile(r"(s3|gs)://[A-Za-z0-9][\w.-]+(/[^/?#@:]+)*")


def name_mirror(hyperopt: HyperoptConfig) -> list[Fault]:
    """Let ``mirror`` name the bucket, and ``results_dir`` a folder of this machine; return what is wrong with them."""
    faults, key = [], "hyperopt.mirror"
    if "://" in hyperopt.results_dir:
        here, there = HyperoptConfig.results_dir, hyperopt.results_dir
        key = "hyperopt.results_dir"
        if hyperopt.mirror is not None and hyperopt.mirror.rstrip("/") != there.rstrip("/"):
            rule = "names a bucket, and hyperopt.mirror another one"
            faults.append(Fault(key, rule, f"{key}={here}"))
        hyperopt.mirror, hyperopt.results_dir = there, here
    if hyperopt.mirror is None:
        return faults
    hyperopt.mirror = hyperopt.mirror.rstrip("/")
    if not _URL.fullmatch(hyperopt.mirror):
        found = re.sub(r"//[^/]*@", "//***@", hyperopt.mirror)  # keys belong in no message
        rule = f"must be s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without keys, found {found!r}"
        faults.append(Fault(key, rule, f"{key}=s3://BUCKET/FOLDER, and AWS_ACCESS_KEY_ID and the like for the keys"))
    if hyperopt.strategy == "none":
        rule = "mirrors the study of a search, and hyperopt=none is a plain training"
        faults.append(Fault(key, rule, "hyperopt=combined"))
    if hyperopt.storage_url is not None:
        rule = "mirrors a study in its folder, and hyperopt.storage_url puts it into a database"
        faults.append(Fault(key, rule, "hyperopt.storage_url=null, or back the database up instead"))
    return faults
