"""docs/studies.md: every piece of YAML in it is accepted, and every key of a study is explained."""

from pathlib import Path

import pytest
import yaml

from ablations.study.study import Study, list_studies

TEXT = (Path(__file__).parents[3] / "docs" / "studies.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in TEXT.split("```yaml\n")[1:]]
COMMON = {"name": "mine", "question": "Is it?", "hypothesis": "It is."}
ONE_FACTOR = {"factor": {"path": "model.dropout", "name": "Dropout"}, "levels": [{"value": 0}, {"value": 0.1}]}
LATENT = {"factor": {"path": "model.latent_dim", "name": "Latent"}}
DECODER = {"factor": {"path": "model.decoder", "name": "Decoder"}, "levels": [{"value": "frozen"}, {"value": "joint"}]}


def around(block):
    """What a piece of a study leaves out."""
    if "grid" in block:
        return COMMON
    if "levels" in block:
        return COMMON | LATENT
    if "paper" in block:
        return COMMON | DECODER | {"default": "frozen"}
    return COMMON | ONE_FACTOR | {"default": 0}


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_is_a_study_or_a_piece_of_one(text):
    block = yaml.safe_load(text)
    study = Study.from_dict(around(block) | block)
    assert len(study.combinations) >= 2


def test_the_first_example_is_whole():
    assert Study.from_dict(yaml.safe_load(BLOCKS[0])).labels == ["0.0", "0.1"]


def test_every_key_is_explained_with_an_example_that_is_accepted():
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| `")]
    keys = {key.strip(" `"): example.strip(" `") for names, _, example in rows for key in names.split(",")}
    assert set(keys) >= set(Study.model_fields) - {"configurations"}
    for key, example in keys.items():
        if example.startswith(f"{key}:") and key not in ("grid", "paper"):
            assert Study.from_dict(COMMON | ONE_FACTOR | {"default": 0} | yaml.safe_load(example)), key


def test_every_built_in_study_is_listed():
    for name in list_studies():
        assert f"| `{name}` |" in TEXT
