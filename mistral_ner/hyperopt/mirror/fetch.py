"""Brings a study from a bucket to this machine, and decides which of two copies has gone further."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import yaml
from filelock import Timeout

from mistral_ner import files, locks
from mistral_ner.config.mirror import find_url_fault, hide_keys
from mistral_ner.config.schema import DataConfig
from mistral_ner.errors import UserError, nearest
from mistral_ner.hyperopt.cluster.parcels import inside
from mistral_ner.hyperopt.mirror.bucket import Bucket, explain
from mistral_ner.hyperopt.mirror.outbox import look, side_folder, write_record
from mistral_ner.hyperopt.mirror.owner import MARKER, Owner
from mistral_ner.hyperopt.study.storage import JOURNAL, read_whole_lines

_CONFIG = "config.yaml"

log = logging.getLogger(__name__)


def fetch(url: str, parent: Path) -> Path:
    """Bring the study at ``url`` into a folder of its name in ``parent``, and become its leader; return the folder.

    Raises:
        UserError: there is none, another process leads it, the bucket cannot be used, or both copies have gone on.
    """
    place, _, name = url.rstrip("/").rpartition("/")
    if find_url_fault(place) is not None:
        raise UserError(
            f"a study's mirror must be s3://my-bucket/folder/study or gs://my-bucket/folder/study, found "
            f"{hide_keys(url)!r}; fix: python -m mistral_ner.hyperopt.resume s3://my-bucket/folder/study"
        )
    bucket = Bucket.open(place)
    bucket.check()
    lead(bucket, parent / name)
    return parent / name


def lead(bucket: Bucket, folder: Path) -> tuple[Owner, str | None]:
    """Become the leader of a study in a bucket, and let ``folder`` hold what the bucket holds, or more.

    Args:
        bucket: the folder of all studies.
        folder: the study's, on this machine.

    Returns:
        The leader, and the id of the last one.

    Raises:
        UserError: as for :func:`fetch`.
    """
    study = bucket.of(folder.name)
    try:
        there = study.read(JOURNAL)
        if there is None and not (folder / _CONFIG).exists():
            raise UserError(_explain_nothing(bucket, folder))
        owner = Owner(study)
        last = owner.claim()
        try:
            return owner, owner.id if _bring(study, folder, owner) else last
        except BaseException:
            owner.release()
            raise
    except OSError as error:
        raise UserError(explain(study.url, error)) from None


def _explain_nothing(bucket: Bucket, folder: Path) -> str:
    there = bucket.list_folders()
    hint = nearest(folder.name, there) or (f"; there are: {', '.join(there)}" if there else "")
    return f"no study {folder.name!r} to resume in {bucket.url}{hint}; fix: its name"


def _bring(study: Bucket, folder: Path, owner: Owner) -> bool:
    """Download a study unless the folder has gone at least as far; return whether it was downloaded."""
    there, here = study.read(JOURNAL) or b"", read_whole_lines(folder / JOURNAL)
    if here and here.startswith(there):
        log.info("%s has all that %s has, and goes on", folder, study.url)
        return False
    if not there.startswith(here):
        raise UserError(
            f"{folder} and {study.url} have each gone on since they were the same; fix: mv {folder} {folder}_here to "
            f"go on from the bucket, or hyperopt.mirror=OTHER to go on from the folder"
        )
    if folder.exists():
        _move_aside(folder, study)
    _download(study, folder, owner)
    return True


def _move_aside(folder: Path, study: Bucket) -> None:
    try:
        with locks.hold(folder / "study.lock", timeout=0):
            aside = files.claim_folder(folder.with_name(f"{folder.name}_older"))
            folder.rename(aside)
    except Timeout:
        raise UserError(f"{folder} is led by another process of this machine; fix: wait for its end") from None
    log.warning("%s has gone further than %s, which is kept as %s", study.url, folder, aside)


def _download(study: Bucket, folder: Path, owner: Owner) -> None:
    """Download a study into a new folder, which appears in one step."""
    found = {name: size for name, size in study.sizes().items() if name != MARKER}
    log.info("fetching %s: %d files, %.1f MB, to %s", study.url, len(found), sum(found.values()) / 1e6, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with files.name_full_disk(folder.parent):
            wanted = [(name, temporary / inside(name)) for name in found]
            for _, path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
            study.receive(wanted)
            stamps = look(temporary)
            settled = _settle(temporary, folder)
            temporary.chmod(files.open_mode(0o777))  # mkdtemp makes it private to the user
            temporary.rename(folder)
            shutil.rmtree(side_folder(folder), ignore_errors=True)
            write_record(folder, owner.id, {name: stamp for name, stamp in stamps.items() if name not in settled})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(temporary: Path, folder: Path) -> list[str]:
    """Let the configs in a study name this machine's folders; return their paths."""
    cache = files.expand(os.environ.get("MISTRAL_NER_CACHE") or DataConfig.cache_dir).absolute()
    changed = []
    for path in sorted(temporary.rglob(_CONFIG)):
        name = path.relative_to(temporary)
        with suppress(yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):  # whoever reads it says so
            config = files.read_yaml(path)
            config["output_dir"] = str((folder / name).parent)
            config["data"]["cache_dir"] = str(cache)
            config["hyperopt"]["results_dir"] = str(folder.parent)
            files.write_yaml(path, config)
            changed.append(name.as_posix())
    return changed
