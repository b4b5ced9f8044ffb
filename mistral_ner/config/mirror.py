"""The bucket that mirrors a study: ``hyperopt.mirror``, or ``hyperopt.results_dir`` where that names a bucket."""

from __future__ import annotations

import re

from mistral_ner.config.schema import HyperoptConfig
from mistral_ner.errors import Fault

_URL = re.compile(r"(s3|gs)://[a-z0-9][a-z0-9._-]+(/[^/?#@:]+)*")


def is_url(place: str) -> bool:
    """Tell whether a place of studies is in a bucket."""
    return "://" in place


def find_url_fault(url: str) -> str | None:
    """Return in words what keeps a URL from naming a bucket or a folder in one; None: nothing."""
    if _URL.fullmatch(url):
        return None
    return (
        "must be s3://my-bucket/folder or gs://my-bucket/folder, a bucket's name in small letters and no keys, "
        f"found {hide_keys(url)!r}"
    )


def hide_keys(url: str) -> str:
    """Return a URL as a message may show it, without a user's keys."""
    return re.sub(r"//[^/]*@", "//***@", url)


def name_mirror(hyperopt: HyperoptConfig) -> list[Fault]:
    """Let ``mirror`` name the bucket, and ``results_dir`` a folder of this machine; return what is wrong with them."""
    faults, key = [], "hyperopt.mirror"
    if is_url(hyperopt.results_dir):
        here, there = HyperoptConfig.results_dir, hyperopt.results_dir
        key = "hyperopt.results_dir"
        if hyperopt.mirror is not None and hyperopt.mirror.rstrip("/") != there.rstrip("/"):
            rule = "names a bucket, and hyperopt.mirror another one"
            faults.append(Fault(key, rule, f"{key}={here}"))
        hyperopt.mirror, hyperopt.results_dir = there, here
    if hyperopt.mirror is None:
        return faults
    hyperopt.mirror = hyperopt.mirror.rstrip("/")
    if (broken := find_url_fault(hyperopt.mirror)) is not None:
        faults.append(
            Fault(key, broken, f"{key}=s3://my-bucket/folder, and AWS_ACCESS_KEY_ID and the like for the keys")
        )
    if hyperopt.strategy == "none":
        rule = "mirrors the study of a search, and hyperopt=none is a plain training"
        faults.append(Fault(key, rule, "hyperopt=combined"))
    if hyperopt.storage_url is not None:
        rule = "mirrors a study in its folder, and hyperopt.storage_url puts it into a database"
        faults.append(Fault(key, rule, "hyperopt.storage_url=null, or back the database up instead"))
    return faults
