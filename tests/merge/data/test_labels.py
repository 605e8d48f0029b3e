"""Classes, their synonyms, and the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ovsam_run import colour_labels

from samclip.errors import ConfigError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import read_text
from samclip.merge.data.labels import embed_labels


def test_scores_against_numpy() -> None:
    labels = colour_labels()
    embeds = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    unit = embeds.numpy() / np.linalg.norm(embeds.numpy(), axis=1, keepdims=True)
    every = np.exp(4.6052) * unit @ labels.text.numpy().T
    wanted = np.maximum.reduceat(every, [0, 1, 3], axis=1)  # as the runtime's vocabulary does
    # cosines of float32 times 100
    np.testing.assert_allclose(labels.scores(embeds).numpy(), wanted, atol=1e-4)
    assert torch.equal(labels.nearest(embeds), torch.from_numpy(wanted.argmax(axis=1)))
    logits = labels.logits(embeds)
    assert logits.shape == (5, 4)
    assert torch.equal(logits[:, 3], torch.zeros(5))


def test_unknown_names_have_no_place() -> None:
    assert colour_labels().places(["blue", "mauve", "red"]).tolist() == [2, -1, 0]


def test_a_line_is_a_class_with_its_synonyms(text_checkpoint: Path) -> None:
    text = read_text(read_checkpoint(text_checkpoint))
    labels = embed_labels(["dog; puppy ", "cat"], text, ["{}"])
    assert labels.names == ("dog", "cat")
    assert labels.owners.tolist() == [0, 0, 1]
    assert torch.allclose(labels.text.norm(dim=1), torch.ones(3), atol=1e-6)
    for lines, said in ((["dog", "dog; hound"], "'dog' is there twice"), ([";"], "it is empty")):
        with pytest.raises(ConfigError, match=said):
            embed_labels(lines, text, ["{}"])
