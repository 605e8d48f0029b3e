from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from samclip.errors import VocabularyError
from samclip.export.checkpoints.checkpoint import fit_state, read_checkpoint
from samclip.export.checkpoints.text_source import TextSource, read_text
from samclip.export.models.merged import build_text_tower
from samclip.merge.data.labels import embed_names
from samclip.runtime.text.tokenizer import Tokenizer

NAMES = ("tench", "great white shark", "a photo")


@pytest.fixture(scope="module")
def text(text_checkpoint: Path) -> TextSource:
    return read_text(read_checkpoint(text_checkpoint))


def test_names_are_means_of_unit_prompts(text: TextSource) -> None:
    tower = build_text_tower(text.config)
    fit_state(tower, text.state, "text tower")
    tokenizer = Tokenizer.from_bytes(text.tokenizer, text.config.context_length)
    rows = []
    for name in NAMES:  # one text at a time, padded to the full length
        with torch.no_grad():
            prompts = [
                tower.eval()(torch.from_numpy(tokenizer([t]))) for t in (name, f"the {name}")
            ]
        rows.append(sum(F.normalize(prompt[0], dim=0) for prompt in prompts))
    expected = F.normalize(torch.stack(rows), dim=1)  # type: ignore[arg-type]
    # Float32; other lengths of padding and batches sum in another order.
    assert float((embed_names(NAMES, text, ("{}", "the {}")) - expected).abs().max()) < 1e-5


def test_batches_do_not_matter(text: TextSource, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed_names(NAMES, text)
    monkeypatch.setattr("samclip.merge.data.labels.TEXTS_AT_ONCE", 2)
    assert float((embed_names(NAMES, text) - whole).abs().max()) < 1e-5  # float32, as above


def test_templates_by_name_and_by_mistake(text: TextSource) -> None:
    bare = embed_names(NAMES, text, "none")
    assert torch.allclose(bare, embed_names(NAMES, text, ("{}",)))
    assert float((bare - embed_names(NAMES, text, "simple")).abs().max()) > 0.01
    with pytest.raises(VocabularyError, match="no template set is called"):
        embed_names(NAMES, text, "simpel")


def test_minilm_knows_what_is_alike(minilm_checkpoint: Path) -> None:
    text = read_text(read_checkpoint(minilm_checkpoint))
    names = embed_names(("tabby cat", "kitten", "aircraft carrier"), text)
    assert names.shape == (3, 384)
    assert torch.allclose(names.norm(dim=1), torch.ones(3), atol=1e-6)  # float32
    assert float(names[0] @ names[1]) > float(names[0] @ names[2]) + 0.3
