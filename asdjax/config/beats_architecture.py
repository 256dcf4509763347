"""Settings of the BEATs architecture, as its checkpoints state them, and of LoRA adapters."""

import dataclasses
from typing import Annotated, Literal

from asdjax.config.schema import Check, Count, Positive, Probability, Range

BANDS = 128
"""Mel bands of the filterbank."""


@dataclasses.dataclass(frozen=True)
class BEATsEncoderConfig:
    """The BEATs encoder, with the key names of `cfg` in its checkpoints; defaults are Iter3's."""

    encoder_layers: Count = 12
    """Transformer layers."""
    encoder_embed_dim: Count = 768
    """Values in each token."""
    encoder_ffn_embed_dim: Count = 3072
    """Hidden units of each layer's feed-forward part."""
    encoder_attention_heads: Count = 12
    """Attention heads; each has encoder_embed_dim / encoder_attention_heads values."""
    embed_dim: Count = 512
    """Values in each patch's embedding, before the projection to encoder_embed_dim."""
    input_patch_size: Count = 16
    """Side of a patch: frames, and bands."""
    conv_bias: bool = False
    """Whether the patch embedding has a bias."""
    conv_pos: Count = 128
    """Kernel size of the positional convolution, tokens."""
    conv_pos_groups: Count = 16
    """Channel groups of the positional convolution."""
    activation_fn: Literal["gelu"] = "gelu"
    """Activation of the feed-forward part."""
    layer_norm_first: Literal[False] = False
    """Whether a layer normalises its parts' inputs; false: the sums of inputs and outputs."""
    deep_norm: bool = True
    """Scale the residual by (2 encoder_layers)^(1/4)."""
    relative_position_embedding: bool = True
    """Add a bias to the attention logits that depends on the tokens' relative position."""
    num_buckets: Annotated[int, Range(low=4, high=2**16)] = 320
    """Buckets of relative positions, over both directions."""
    max_distance: Count = 800
    """Distance from which all relative positions share the last bucket, tokens."""
    gru_rel_pos: bool = True
    """Multiply the relative position bias by a gate computed from the query."""
    dropout: Probability = 0.1
    """Dropout of hidden states, in training."""
    attention_dropout: Probability = 0.1
    """Dropout of attention weights, in training."""
    activation_dropout: Probability = 0.0
    """Dropout inside the feed-forward part, in training."""
    dropout_input: Probability = 0.1
    """Dropout of the projected patches, in training."""
    encoder_layerdrop: Probability = 0.05
    """Probability that a training step skips a layer."""
    layer_wise_gradient_decay_ratio: Probability = 1.0
    """Factor on the gradient with respect to each layer's input."""
    finetuned_model: bool = False
    """Whether the checkpoint has a classifier on top of the encoder."""
    predictor_dropout: Probability = 0.1
    """Dropout of the classifier's input, in training."""
    predictor_class: Count = 527
    """Classes of the classifier."""
    fbank_mean: Annotated[float, Range(low=-1000, high=1000)] = 15.41663
    """Mean of the filterbank on the data of the pretraining."""
    fbank_std: Positive = 6.55582
    """Standard deviation of the filterbank on these data; features are divided by twice this."""
    published_as: Literal["BEATs", "OpenBEATs"] = "BEATs"
    """Name of the weights, for meta.yaml; the network is the same."""

    @property
    def depth(self) -> int:
        """Transformer layers."""
        return self.encoder_layers

    @property
    def width(self) -> int:
        """Values in each token."""
        return self.encoder_embed_dim

    @property
    def bands(self) -> int:
        """Patches from the lowest to the highest frequency; an incomplete one is dropped."""
        return BANDS // self.input_patch_size

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return [
            (
                self.encoder_embed_dim % self.encoder_attention_heads == 0,
                "model.encoder.encoder_attention_heads",
                "must divide encoder_embed_dim",
            ),
            (
                self.encoder_embed_dim % self.conv_pos_groups == 0,
                "model.encoder.conv_pos_groups",
                "must divide encoder_embed_dim",
            ),
            (
                self.max_distance > self.num_buckets // 4,
                "model.encoder.max_distance",
                f"too small for {self.num_buckets} buckets: choose more than a quarter of them",
            ),
        ]


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation: y = W x + b + (alpha / rank) B A x with W and b frozen."""

    rank: Count = 64
    """Rank of the product B A."""
    alpha: Positive = 8.0
    """Scale of the adapters: B A is multiplied by alpha / rank."""
    dropout: Probability = 0.0
    """Dropout of the adapters' input, in training."""
    targets: tuple[
        Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], ...
    ] = ("q_proj", "v_proj")  # fmt: skip
    """Projections that get an adapter, in every layer."""
