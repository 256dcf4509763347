"""The architecture of BEATs, which checkpoints state and recipes may, and that of its adapters."""

import dataclasses
from typing import Annotated, Literal

from asdjax.config.schema import Check, Count, Positive, Probability, Range


@dataclasses.dataclass(frozen=True)
class BEATsEncoderConfig:
    """The BEATs encoder in the words of its checkpoints' own `cfg`; the defaults are Iter3's."""

    encoder_layers: Count = 12
    """Transformer layers."""
    encoder_embed_dim: Count = 768
    """Values in each token."""
    encoder_ffn_embed_dim: Count = 3072
    """Hidden units of each layer's feed-forward part."""
    encoder_attention_heads: Count = 12
    """Attention heads, which share encoder_embed_dim."""
    embed_dim: Count = 512
    """Values in each patch's embedding, before the projection to encoder_embed_dim."""
    input_patch_size: Count = 16
    """Frames and bands in each patch."""
    conv_bias: bool = False
    """A bias in the patch embedding."""
    conv_pos: Count = 128
    """Tokens under the kernel of the positional convolution."""
    conv_pos_groups: Count = 16
    """Groups of its channels."""
    activation_fn: Literal["gelu"] = "gelu"
    layer_norm_first: Literal[False] = False
    deep_norm: bool = True
    """Scale the residual by (2 encoder_layers)^(1/4)."""
    relative_position_embedding: bool = True
    """Add a bias to the attention that depends on the tokens' distance."""
    num_buckets: Annotated[int, Range(low=4, high=2**16)] = 320
    """Distances that are told apart, over both directions."""
    max_distance: Count = 800
    """From here on distances are not told apart."""
    gru_rel_pos: bool = True
    """Gate that bias by the query."""
    dropout: Probability = 0.1
    """Of hidden states, in training."""
    attention_dropout: Probability = 0.1
    """Of attention probabilities, in training."""
    activation_dropout: Probability = 0.0
    """Inside the feed-forward part, in training."""
    dropout_input: Probability = 0.1
    """Of the projected patches, in training."""
    encoder_layerdrop: Probability = 0.05
    """Probability that a training step skips a layer."""
    layer_wise_gradient_decay_ratio: Probability = 1.0
    """Factor on the gradient that leaves each layer through its input."""
    finetuned_model: bool = False
    """Whether a classifier's last layer comes with the encoder."""
    predictor_dropout: Probability = 0.1
    """Of the classifier's input, in training."""
    predictor_class: Count = 527
    """Its classes."""

    def checks(self) -> list[Check]:
        """What must hold of the architecture, besides types and bounds."""
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
    """Rows of A and columns of B."""
    alpha: Positive = 8.0
    """Factor on B A, over the rank."""
    dropout: Probability = 0.0
    """Of A's input, in training."""
    targets: tuple[
        Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], ...
    ] = ("q_proj", "v_proj")  # fmt: skip
    """Which projections of every layer are adapted."""
