"""Files as annotation tools leave them, through the real command: each is trained on, and what was read is said."""

from __future__ import annotations

from pathlib import Path

from command import launch, shown

from tests.conftest import CASES, needs_cases

# the files of a training, what must be said of each, and the entities of its first sentence
SAID = {
    "index_first.conllu": ("(conll, words in column 1, tags in column 2", "[Ada PER] lives in [Bern LOC]"),
    "universal_ner.iob2": ("(conll, words in column 1, tags in column 2", "Hello [Bo PER] ."),
    "ud_comment_five_columns.iob2": ("(conll, words in column 1, tags in column 2", "Hello [Goethe PER]"),
    "nested_layers.iob2": ("(conll, words in column 0, tags in column 1", "[Univ. Bern ORG] hosts [Bo PER]"),
    "doccano_labels.jsonl": ("(doccano, text with spans): 2 sentences", "[Ada PER] lives in [Bern LOC] ."),
    "label_studio.json": ("(Label Studio, text with spans): 1 sentence", "[Ada PER] lives in Bern ."),
    "brat.txt": ("(brat, .txt and .ann): 1 sentence", "[Ada PER] lives in [Bern LOC] ."),
    "bmes.char.bmes": ("tags bioes): 2 sentences", "[王 小 明 NAME] \uff0c 男"),
    "gmb.csv": ("(csv, words in column Word, tags in column Tag", "[Ada per] lives in [Bern geo]"),
    "hipe_header.tsv": ("words in column TOKEN, tags in column NE-COARSE-LIT", "[Bern loc] ."),
    "ontonotes.gold_conll": ("words in column 3, tags in column 10", "[Ada PERSON] lives in [New Bern GPE]"),
}
ASKED = {
    "tag_first.bio": ("data.token_column=1 data.tag_column=0", "a [four star Rating] place"),
    "no_blank_lines.conll": ("data.sentence_end=punctuation", "[Ada PER] ."),
}


@needs_cases
def test_files_of_annotation_tools_train(tmp_path: Path, toy_files: dict[str, str]) -> None:
    """One process for those that are read as they are; one for each that has to be asked for, with the fix typed."""
    quick = ["model=tiny", "data=files", "training.reports=1", "training.num_epochs=1", "training.threads=1"]
    others = [f"data.{name}={toy_files[name]}" for name in ("dev_file", "test_file")]
    done = launch(tmp_path, "-m", *quick, *others, f"data.train_file={','.join(str(CASES / name) for name in SAID)}")
    assert done.returncode == 0, shown(done)
    said = [part.partition("[20")[0] for part in done.stdout.split("what was read:")[1:]]
    assert len(said) == len(SAID), shown(done)
    for (name, (facts, first)), text in zip(SAID.items(), said, strict=True):
        assert name in text
        assert facts in text
        assert f"first    {first}\n" in text
        assert len(text.splitlines()) <= 12
    for name, (fix, first) in ASKED.items():
        files = [f"data.{split}_file={CASES / name}" for split in ("train", "dev", "test")]
        refused = launch(tmp_path, *quick, *files)
        assert refused.returncode == 1
        assert f"fix: {fix}" in refused.stderr
        assert "Traceback" not in refused.stderr
        done = launch(tmp_path, *quick, *files, *fix.split())
        assert done.returncode == 0, shown(done)
        assert f"first    {first}\n" in done.stdout
