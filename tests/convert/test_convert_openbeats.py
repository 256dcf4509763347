"""OpenBEATs: the network of BEATs, in checkpoints of ESPnet."""

import numpy as np
import pytest
from conftest import GOLDEN, HIDDEN_ATOL, POOLED_ATOL
from support.conversions import document_of, refused
from support.torch_writer import write

from asdjax.cli import main
from asdjax.convert import torch_file
from asdjax.embedder import load
from asdjax.models.beats_encoder import BEATsConfig

OPENBEATS = GOLDEN / "openbeats_tiny.pt"


def changed(tmp_path, cfg=None, model=None, without=()):
    """The golden checkpoint with other keys and arrays."""
    content = torch_file.read(OPENBEATS)
    cfg, model = content["cfg"] | (cfg or {}), content["model"] | (model or {})
    cfg, model = ({k: v for k, v in part.items() if k not in without} for part in (cfg, model))
    write(tmp_path / "changed.pt", {"cfg": cfg, "model": model})
    return tmp_path / "changed.pt"


def test_tokens_are_the_references(tmp_path, golden, capsys):
    assert main(["convert", "openbeats", str(OPENBEATS), str(tmp_path / "out")]) == 0
    assert "filterbank: mean 15.2913, standard deviation 5.90532" in capsys.readouterr().err
    io = golden("openbeats_tiny_io")
    embedder = load(tmp_path / "out")
    for samples in (16000, 52800):
        waves, tokens = list(io[f"n{samples}/wave"]), io[f"n{samples}/tokens"]
        found = embedder.embed(waves, "none")
        np.testing.assert_allclose(found, tokens, rtol=0, atol=HIDDEN_ATOL)
        pooled = tokens.mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(embedder.embed(waves), pooled, rtol=0, atol=POOLED_ATOL)


def test_the_folder_is_one_of_beats(tmp_path):
    assert main(["convert", "openbeats", str(OPENBEATS), str(tmp_path / "out")]) == 0
    assert main(["convert", "verify", str(tmp_path / "out")]) == 0
    document = document_of(tmp_path / "out")
    assert document["encoder"]["published_as"] == "OpenBEATs"
    assert document["cfg_ignored"] == [
        "codebook_vocab_size", "decoder_layers", "mask_ratio", "use_flash_attn",
    ]  # fmt: skip
    names = {tensor["name"] for tensor in document["tensors"]}
    padding = {"patch_embedding_pad.weight", "raw2fbank_pad.weight"}
    assert torch_file.read(OPENBEATS)["model"].keys() == names | padding
    model, _ = BEATsConfig(weights=str(tmp_path / "out")).resolved()
    assert model.sentences()[2] == "OpenBEATs" and "OpenBEATs (pretrained" in model.sentences()[1]
    assert BEATsConfig().sentences()[2] == "BEATs"


def test_keys_that_cfg_lacks_are_espnets_defaults(tmp_path, capsys):
    source = changed(tmp_path, without=("dropout", "fbank_mean", "fbank_std", "layer_norm_first"))
    assert main(["convert", "openbeats", str(source), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().err
    assert "mean 15.4166, standard deviation 6.55582" in out
    assert "dropout 0.1" in out and "layer_norm_first False" in out
    given = ["--fbank-mean", "15.6", "--fbank-std", "6.4", "--overwrite"]
    assert main(["convert", "openbeats", str(source), str(tmp_path / "out"), *given]) == 0
    encoder = document_of(tmp_path / "out")["encoder"]
    assert (encoder["fbank_mean"], encoder["fbank_std"]) == (15.6, 6.4)
    # these are not the defaults of BEATs, which states every key
    assert "cfg lacks" in refused(capsys, "beats", source, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"raw2fbank_pad.weight": np.full((1, 1, 400), 2, np.float32)}}, "not all ones"),
        ({"model": {"layer_weights": np.ones((3, 1), np.float32)}}, "unexpected layer_weights"),
        ({"cfg": {"layer_norm_first": True}}, "cfg.layer_norm_first: expected one of False"),
        ({"cfg": {"fbank_std": 0.0}}, "cfg.fbank_std: must be above 0"),
        ({"cfg": {"gru_rel_pos": False}}, "unexpected encoder.layers.0.self_attn.grep_a"),
    ],
)
def test_other_checkpoints_are_refused(change, words, tmp_path, capsys):
    source = changed(tmp_path, **change)
    err = refused(capsys, "openbeats", source, tmp_path / "out")
    assert str(source) in err and words in err
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_fine_tuned_checkpoint_of_espnet_has_no_cfg(tmp_path, capsys):
    write(tmp_path / "valid.pth", {"encoder.layer_norm.bias": np.zeros(3, np.float32)})
    err = refused(capsys, "openbeats", tmp_path / "valid.pth", tmp_path / "out")
    assert "has no cfg" in err and "OpenBEATs authors" in err
