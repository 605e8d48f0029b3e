from __future__ import annotations

import gzip
import json

from reference_open_clip import reference_merges
from tokenizers import Tokenizer

from samclip.export.checkpoints.text_source import (
    MERGE_COUNT,
    MERGES_FILE,
    clip_tokenizer_json,
    read_merges,
)


def test_shipped_merges_equal_open_clip() -> None:
    merges = read_merges()
    assert len(merges) == MERGE_COUNT == 48_894
    assert [" ".join(pair) for pair in merges] == reference_merges()


def test_the_data_file_carries_no_time_and_no_name() -> None:
    data = MERGES_FILE.read_bytes()
    assert data[3] == 0  # flags: no file name
    assert data[4:8] == bytes(4)  # modification time
    assert len(gzip.decompress(data).splitlines()) == MERGE_COUNT


def test_the_file_is_the_same_every_time() -> None:
    assert clip_tokenizer_json() == clip_tokenizer_json()


def test_vocabulary_is_clips() -> None:
    vocabulary = json.loads(clip_tokenizer_json())["model"]["vocab"]
    assert len(vocabulary) == 49408
    assert sorted(vocabulary.values()) == list(range(49408))
    known = {"!": 0, "!</w>": 256, "in": 512, "cat</w>": 2368}
    assert {token: vocabulary[token] for token in known} == known
    assert (vocabulary["<start_of_text>"], vocabulary["<end_of_text>"]) == (49406, 49407)


def test_other_clients_get_the_special_tokens_from_the_file() -> None:
    tokenizer = Tokenizer.from_str(clip_tokenizer_json().decode())
    assert tokenizer.encode("a photo of a cat").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.decode([320, 2368]) == "a</w>cat</w>"
