"""The embedders' settings: a part of the configuration, one dataclass for each kind of model."""

import dataclasses
from typing import Annotated, Literal

from asdjax.config.schema import Check, Range

Count = Annotated[int, Range(low=1, high=2**20)]
NonNegative = Annotated[float, Range(low=0)]
Positive = Annotated[float, Range(low=0, above=True)]
Probability = Annotated[float, Range(low=0, high=1)]
ComputeDtype = Literal["float32", "bfloat16"]
"""What the operands of large products are rounded to."""


@dataclasses.dataclass(frozen=True)
class SpectrogramConfig:
    """One STFT branch of MultiResNet."""

    n_fft: Count
    """Window and transform length, samples."""
    hop: Count
    """Step between frames, samples."""


@dataclasses.dataclass(frozen=True)
class StridedConvConfig:
    """One convolution over the spectrum of the whole clip."""

    window: Count
    """Positions under the kernel."""
    stride: Count
    """Positions between outputs."""


@dataclasses.dataclass(frozen=True)
class MultiResNetConfig:
    """MultiResNet: one branch on the whole clip's spectrum, one per STFT resolution."""

    name: Literal["multiresnet"] = "multiresnet"
    fft_branch: bool = True
    """Use the branch that reads the magnitude spectrum of the whole clip."""
    fft_convs: tuple[StridedConvConfig, ...] = (
        StridedConvConfig(256, 64),
        StridedConvConfig(64, 32),
        StridedConvConfig(16, 4),
    )
    """The FFT branch's convolutions."""
    fft_channels: Count = 128
    """Channels of each of them."""
    fft_hidden_layers: Count = 5
    """Normalised layers of the FFT branch's perceptron, before its last, linear one."""
    spectrograms: tuple[SpectrogramConfig, ...] = (
        SpectrogramConfig(256, 128),
        SpectrogramConfig(1024, 512),
        SpectrogramConfig(4096, 2048),
    )
    """STFT branches, in the order of their embeddings."""
    stage_channels: tuple[Count, ...] = (16, 32, 64, 128)
    """Channels of an STFT branch's stages, two residual blocks each; all but the first halve."""
    low_hz: NonNegative = 200.0
    """Lowest frequency kept in the spectrograms, hertz."""
    high_hz: Positive = 8000.0
    """Highest frequency kept in the spectrograms, hertz."""
    branch_size: Count = 128
    """Values in each branch's embedding."""
    squeeze_ratio: Count = 16
    """Channels per hidden unit in squeeze-and-excitation."""
    norm_momentum: Probability = 0.1
    """Share of the new batch in BatchNorm's running statistics."""
    norm_eps: Positive = 1e-5
    """Added to BatchNorm's variance."""
    compute_dtype: ComputeDtype = "float32"
    """What the convolutions' operands and results are rounded to; weights stay float32."""


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


@dataclasses.dataclass(frozen=True)
class BEATsConfig:
    """BEATs (Chen et al., ICML 2023): a pretrained transformer on filterbank patches."""

    name: Literal["beats"] = "beats"
    weights: str | None = None
    """Folder that `asdjax convert beats` wrote."""
    random_init: bool = False
    """Start from random weights instead: for tests only, and said in every artefact."""
    encoder: BEATsEncoderConfig = BEATsEncoderConfig()
    """The architecture; with weights it is theirs and need not be stated."""
    adaptation: Literal["full", "lora", "frozen"] = "full"
    """What trains: everything; adapters, pooling and projection; or nothing."""
    lora: LoRAConfig = LoRAConfig()
    layers: tuple[Count, ...] = ()
    """Layers, from 1, whose tokens are pooled side by side; empty: the last."""
    pooling: Literal["attentive_statistics", "mean"] = "attentive_statistics"
    """How the tokens of a clip become one vector."""
    pooling_ratio: Count = 16
    """Channels per hidden unit in attentive statistics pooling."""
    embedding_size: Annotated[int, Range(low=0, high=2**20)] = 256
    """Values in the embedding, a linear map of the pooled vector; 0: the pooled vector itself."""
    dropout: Probability | None = None
    """Instead of the encoder's own; so the following five."""
    attention_dropout: Probability | None = None
    activation_dropout: Probability | None = None
    dropout_input: Probability | None = None
    encoder_layerdrop: Probability | None = None
    layer_wise_gradient_decay_ratio: Probability | None = None
    compute_dtype: ComputeDtype = "float32"
    """Type of the large products; weights, softmax, norms and the loss stay float32."""
    fused_attention: bool = False
    """On NVIDIA GPUs, with bfloat16: attention in one kernel, cuDNN's, unless training drops some
    of its weights. Elsewhere it is computed step by step, as without."""
    remat: Literal["none", "attention", "full"] = "none"
    """What training computes again instead of keeping: attention, or all inside each layer."""


ModelConfig = MultiResNetConfig | BEATsConfig


def checks(model: ModelConfig, sample_rate: int) -> list[Check]:
    """What must hold of an embedder's settings, beside types and bounds."""
    if isinstance(model, BEATsConfig):
        return _beats_checks(model, sample_rate)
    return _multiresnet_checks(model, sample_rate)


def _multiresnet_checks(model: MultiResNetConfig, sample_rate: int) -> list[Check]:
    return [
        (
            model.low_hz < model.high_hz <= sample_rate / 2,
            "model.low_hz and model.high_hz",
            "low_hz must be below high_hz, and high_hz at most half of audio.sample_rate",
        ),
        (
            model.fft_branch or model.spectrograms,
            "model.spectrograms",
            "name at least one STFT resolution, or set model.fft_branch to true",
        ),
        (model.stage_channels, "model.stage_channels", "name at least one stage"),
        (model.fft_convs, "model.fft_convs", "name at least one convolution"),
    ]


def _beats_checks(model: BEATsConfig, sample_rate: int) -> list[Check]:
    encoder = model.encoder
    width = encoder.encoder_embed_dim
    return [
        (sample_rate == 16000, "audio.sample_rate", "BEATs hears 16000 Hz alone"),
        (
            not (model.weights and model.random_init),
            "model.random_init",
            "cannot be true where model.weights names pretrained weights",
        ),
        (
            width % encoder.encoder_attention_heads == 0,
            "model.encoder.encoder_attention_heads",
            "must divide encoder_embed_dim",
        ),
        (
            width % encoder.conv_pos_groups == 0,
            "model.encoder.conv_pos_groups",
            "must divide encoder_embed_dim",
        ),
        (
            encoder.max_distance > encoder.num_buckets // 4,
            "model.encoder.max_distance",
            f"too small for {encoder.num_buckets} buckets: choose more than a quarter of them",
        ),
        (
            max(model.layers, default=1) <= encoder.encoder_layers,
            "model.layers",
            f"the encoder has layers 1 to {encoder.encoder_layers}: choose among them",
        ),
        (
            tuple(sorted(set(model.layers))) == model.layers,
            "model.layers",
            "name each layer once, in rising order",
        ),
        (
            not model.fused_attention or model.compute_dtype == "bfloat16",
            "model.fused_attention",
            "needs model.compute_dtype bfloat16",
        ),
        (
            model.adaptation != "lora" or model.lora.targets,
            "model.lora.targets",
            "name at least one projection",
        ),
        (
            model.adaptation != "frozen" or (model.pooling == "mean" and model.embedding_size == 0),
            "model.adaptation",
            "frozen trains nothing: set model.pooling to mean and model.embedding_size to 0",
        ),
    ]
