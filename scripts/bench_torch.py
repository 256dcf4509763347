"""The PyTorch side of the speed benchmarks: asdjax's layer shapes as one would write them in torch.

bench.py starts this file with another Python (--torch-python PATH), which needs torch and NumPy
alone, and asks for one measurement at a time, so that both sides can take turns. A line of standard
input is a request, a line of standard output its answer:

    {"stage": "beats_embed", "options": {"seconds": 10, "batch": 8}, "repeat": 3}
    {"seconds": [...], "clips": 8, "versions": {...}, "threads": 2}

Stages are those of `STAGES` and options their arguments, beside "threads" (default: all
processors). What a stage needs is built, and run untimed, at the first request with these options,
and kept until {"stage": "drop"}; {"stage": "quit"} or the end of the input ends the process. What
cannot be done is answered by {"error": "..."}. Kernels and precision are PyTorch's defaults.
"""

import functools
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

RATE = 16000
WARM_UP = 2  # untimed runs
ITER3 = {  # of a BEATs checkpoint's `cfg`, what its sizes and drop-outs follow from
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "embed_dim": 512,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "dropout_input": 0.1,
    "encoder_layerdrop": 0.05,
}

Linear = functools.partial(nn.Linear, bias=False)  # MultiResNet has no biases
Conv = functools.partial(nn.Conv2d, bias=False)
Norm1d = functools.partial(nn.BatchNorm1d, affine=False)
Norm2d = functools.partial(nn.BatchNorm2d, affine=False)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 16
        self.gate = nn.Sequential(
            Linear(channels, hidden), nn.ReLU(), Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x.flatten(2).mean(2))
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


class FFTBranch(nn.Sequential):
    def __init__(self, samples: int):
        layers, positions, n_in = [], samples // 2 + 1, 1
        for window, stride in (256, 64), (64, 32), (16, 4):
            layers += [nn.Conv1d(n_in, 128, window, stride, bias=False), nn.ReLU()]
            layers += [SqueezeExcitation(128)]
            positions, n_in = (positions - window) // stride + 1, 128
        layers += [nn.Flatten()]
        for size in (128 * positions, 128, 128, 128, 128):
            layers += [Linear(size, 128), Norm1d(128), nn.ReLU()]
        super().__init__(*layers, Linear(128, 128))

    def forward(self, waves: Tensor) -> Tensor:
        return super().forward(torch.fft.rfft(waves).abs()[:, None])


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.norm = Norm2d(n_in)
        pool = [nn.MaxPool2d(3, 2, padding=1), Conv(n_in, n_out, 1)]
        self.shortcut = nn.Sequential(*pool if stride == 2 else [])
        first = nn.ReLU(), Conv(n_in, n_out, 3, stride, padding=1), Norm2d(n_out)
        second = nn.ReLU(), Conv(n_out, n_out, 3, padding=1), SqueezeExcitation(n_out)
        self.residual = nn.Sequential(*first, *second)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.shortcut(x) + self.residual(x)


class STFTBranch(nn.Module):
    def __init__(self, n_fft: int):
        super().__init__()
        self.register_buffer("window", torch.hann_window(n_fft))
        self.first_bin = math.ceil(200 * n_fft / RATE)
        bins = n_fft // 2 + 1 - self.first_bin
        self.norm = Norm1d(bins)
        layers = [Conv(1, 16, 7, 2), Norm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2)]
        layers += [Block(16, 16, 1), Block(16, 16, 1)]
        height = ((bins - 7) // 2 + 1 - 3) // 2 + 1
        for n_in, n_out in itertools.pairwise((16, 32, 64, 128)):
            layers += [Block(n_in, n_out, 2), Block(n_out, n_out, 1)]
            height = (height + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.out = nn.Sequential(Norm1d(128 * height), Linear(128 * height, 128))

    def forward(self, waves: Tensor) -> Tensor:
        n_fft, more = len(self.window), {"pad_mode": "constant", "return_complex": True}
        x = torch.stft(waves, n_fft, n_fft // 2, window=self.window, **more)
        x = self.norm(x[:, self.first_bin :].abs() / self.window.norm())
        return self.out(self.layers(x[:, None]).amax(3).flatten(1))


class MultiResNet(nn.Module):
    def __init__(self, samples: int):
        super().__init__()
        stft = map(STFTBranch, (256, 1024, 4096))
        self.branches = nn.ModuleList([FFTBranch(samples), *stft])

    def forward(self, waves: Tensor) -> Tensor:
        return torch.cat([branch(waves) for branch in self.branches], dim=1)


class Fbank(nn.Module):
    """Kaldi's filterbank as torchaudio computes it, clip by clip, normalised as BEATs does."""

    def __init__(self):
        super().__init__()
        window = torch.hann_window(400, periodic=False) ** 0.85
        low, high = (1127 * math.log(1 + hz / 700) for hz in (20, 8000))
        left, centre, right = (
            low + (torch.arange(128) + i) * ((high - low) / 129) for i in range(3)
        )
        mel = 1127 * (1 + 31.25 * torch.arange(256)[:, None] / 700).log()
        bank = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", bank.clamp(min=0), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:  # [B, T] in [-1, 1] to [B, frames, 128]
        return (torch.stack([self.clip(w) for w in waves]) - 15.41663) / (2 * 6.55582)

    def clip(self, wave: Tensor) -> Tensor:
        frames = (wave * 32768).unfold(0, 400, 160)
        frames = frames - frames.mean(1, keepdim=True)
        before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
        spectrum = torch.fft.rfft((frames - 0.97 * before) * self.window, 512)
        energies = spectrum[:, :256].abs().square() @ self.bank
        return energies.clamp(min=torch.finfo(torch.float32).eps).log()


class LoRALinear(nn.Module):
    """x W + b + alpha / rank * (x A) B, of which A and B alone are trained."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float = 8.0):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.lora_a, self.lora_b = Linear(base.in_features, rank), Linear(rank, base.out_features)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.lora_b(self.lora_a(x))


class Attention(nn.Module):
    """Self-attention with gated relative position bias; `kind` is "eager" or "sdpa"."""

    def __init__(self, cfg: SimpleNamespace, table: nn.Embedding, kind: str):
        super().__init__()
        width, self.heads = cfg.encoder_embed_dim, cfg.encoder_attention_heads
        self.relative_attention_bias = table  # one for all layers
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.dropout, self.kind = cfg.attention_dropout, kind

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (p(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in projections)
        sums = self.grep_linear(q).unflatten(3, (2, 4)).sum(-1)
        a, b = torch.sigmoid(sums).chunk(2, dim=-1)
        bias = (a * (b * self.grep_a - 1) + 2) * bias
        dropout = self.dropout if self.training else 0.0
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropout)
        else:  # as the reference, which divides by 32 for a while: half precision would overflow
            logits = (q / (32 * math.sqrt(q.shape[-1]))) @ k.transpose(2, 3)
            logits = (logits - logits.amax(-1, keepdim=True)) * 32 + bias
            y = F.dropout(logits.softmax(-1), dropout) @ v
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, cfg: SimpleNamespace, table: nn.Embedding, attention: str):
        super().__init__()
        width, hidden = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim
        self.self_attn = Attention(cfg, table, attention)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(cfg.dropout)
        self.alpha = (2 * cfg.encoder_layers) ** 0.25  # deep norm

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.dropout(self.self_attn(x, bias)))
        y = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        return self.final_layer_norm(self.alpha * x + y)


class Encoder(nn.Module):
    def __init__(self, cfg: SimpleNamespace, attention: str):
        super().__init__()
        width, self.layer_drop = cfg.encoder_embed_dim, cfg.encoder_layerdrop
        conv = nn.Conv1d(width, width, 128, padding=64, groups=16)
        self.pos_conv = nn.Sequential(weight_norm(conv, dim=2))  # one norm for each tap
        self.table = [nn.Embedding(320, cfg.encoder_attention_heads)]  # registered by the layers
        layers = (Layer(cfg, self.table[0], attention) for _ in range(cfg.encoder_layers))
        self.layers = nn.ModuleList(layers)
        self.layer_norm, self.dropout = nn.LayerNorm(width), nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.pos_conv(x.transpose(1, 2))[:, :, :-1]  # an even kernel: one too many
        x = self.dropout(self.layer_norm(x + F.gelu(positions).transpose(1, 2)))
        bias = self.position_bias(torch.arange(x.shape[1], device=x.device))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.layer_drop:
                x = layer(x, bias)
        return x

    def position_bias(self, token: Tensor) -> Tensor:  # [heads, query, key]
        relative = token[None, :] - token[:, None]
        octaves = (relative.abs().clamp(min=80) / 80).log() / math.log(800 / 80)
        far = (80 + (octaves * 80).long()).clamp(max=159)
        bucket = torch.where(relative.abs() < 80, relative.abs(), far)
        return self.table[0](bucket + 160 * (relative > 0)).permute(2, 0, 1)


class BEATs(nn.Module):
    """Normalised filterbank [B, frames, 128] to tokens [B, L, D], by the checkpoints' names."""

    def __init__(self, cfg: dict[str, Any] = ITER3, attention: str = "eager"):
        super().__init__()
        cfg = SimpleNamespace(**cfg)
        self.patch_embedding = Conv(1, cfg.embed_dim, 16, 16)
        self.layer_norm = nn.LayerNorm(cfg.embed_dim)
        self.post_extract_proj = nn.Linear(cfg.embed_dim, cfg.encoder_embed_dim)
        self.dropout_input = nn.Dropout(cfg.dropout_input)
        self.encoder = Encoder(cfg, attention)

    def forward(self, fbank: Tensor) -> Tensor:
        x = self.patch_embedding(fbank[:, None]).flatten(2).transpose(1, 2)
        return self.encoder(self.dropout_input(self.post_extract_proj(self.layer_norm(x))))

    def adapt(self, rank: int) -> None:
        """Freeze everything and give every q_proj and v_proj an adapter."""
        self.requires_grad_(False)
        for attention in (layer.self_attn for layer in self.encoder.layers):
            attention.q_proj = LoRALinear(attention.q_proj, rank)
            attention.v_proj = LoRALinear(attention.v_proj, rank)


class AttnStatPool(nn.Module):
    """Tokens [B, L, C] to their weighted mean and deviation, mapped to [B, C]."""

    def __init__(self, width: int):
        super().__init__()
        hidden = width // 16
        weights = [nn.Conv1d(3 * width, hidden, 1), nn.ReLU(), nn.BatchNorm1d(hidden), nn.Tanh()]
        weights += [nn.Conv1d(hidden, width, 1), nn.Softmax(dim=2)]
        out = nn.BatchNorm1d(2 * width), nn.Linear(2 * width, width), nn.BatchNorm1d(width)
        self.weights, self.out = nn.Sequential(*weights), nn.Sequential(*out)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        deviation = x.var(2, keepdim=True).clamp(min=1e-4).sqrt().expand_as(x)
        weights = self.weights(torch.cat([x, x.mean(2, keepdim=True).expand_as(x), deviation], 1))
        mean = (weights * x).sum(2)
        variance = (weights * x.square()).sum(2) - mean.square()
        return self.out(torch.cat([mean, variance.clamp(min=1e-4).sqrt()], 1))


class BEATsEmbedder(nn.Module):
    """Waveforms to embeddings of 256 values, or without `head` to the tokens' means."""

    def __init__(self, dtype: str, attention: str, head: bool = True):
        super().__init__()
        if dtype not in ("float32", "bfloat16") or attention not in ("eager", "sdpa"):
            raise ValueError(f"no dtype {dtype} with attention {attention}")
        self.fbank, self.beats = Fbank(), BEATs(attention=attention)
        self.half = dtype == "bfloat16"
        self.head = nn.Sequential(AttnStatPool(768), nn.Linear(768, 256)) if head else None

    def forward(self, waves: Tensor) -> Tensor:
        return self.of_fbank(self.fbank(waves))

    def of_fbank(self, fbank: Tensor) -> Tensor:
        with torch.autocast(fbank.device.type, torch.bfloat16, enabled=self.half):
            tokens = self.beats(fbank)
        return self.head(tokens.float()) if self.head else tokens.float().mean(1)


class SubClusterAdaCos(nn.Module):
    def __init__(self, width: int, classes: int, sub_clusters: int = 16):
        super().__init__()
        centres = torch.empty(width, classes * sub_clusters)
        self.centres = nn.Parameter(nn.init.xavier_uniform_(centres))
        self.scale = math.sqrt(2) * math.log(classes * sub_clusters - 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        cosine = F.normalize(x) @ F.normalize(self.centres, dim=0)
        logits = (self.scale * cosine).unflatten(1, (target.shape[1], -1)).logsumexp(2)
        return F.cross_entropy(logits, target)


Work: TypeAlias = tuple[Callable[[], Any], dict[str, float]]
"""What is timed, and what the answer says about it."""


def sound(batch: int, seconds: float) -> Tensor:
    shape = batch, round(seconds * RATE)
    return torch.from_numpy(np.random.default_rng(0).integers(-9000, 9000, shape, np.int16))


def gemm(device: torch.device, size: int = 2048, dtype: str = "float32") -> Work:
    a = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    return lambda: a @ a, {"clips": 1, "gflop": 2 * size**3 / 1e9}


def fbank(device: torch.device, seconds: float = 10, batch: int = 8) -> Work:
    """The normalised filterbank, from the host's floats."""
    waves, model = sound(batch, seconds) / 32768, Fbank().to(device)
    return lambda: model(waves.to(device)), {"clips": batch}


def embedding(model: Callable[[Tensor], Tensor], waves: Tensor, device: torch.device) -> Work:
    """From the host's integers to the host's floats."""
    run = torch.no_grad()(lambda: model(waves.to(device) / 32768).cpu())
    return run, {"clips": len(waves)}


def multiresnet_embed(device: torch.device, seconds: float = 12, batch: int = 8) -> Work:
    model = MultiResNet(round(seconds * RATE)).to(device).eval()
    return embedding(model, sound(batch, seconds), device)


def beats_embed(
    device: torch.device,
    seconds: float = 10,
    batch: int = 8,
    dtype: str = "float32",
    attention: str = "eager",
    source: str = "waveform",
) -> Work:
    """With the option "from": "fbank", from a filterbank that is already on the device."""
    model = BEATsEmbedder(dtype, attention, head=False).to(device).eval()
    waves = sound(batch, seconds)
    if source == "waveform":
        return embedding(model, waves, device)
    if source != "fbank":
        raise ValueError(f"from {source}: choose waveform or fbank")
    ready = model.fbank(waves.to(device) / 32768)
    return torch.no_grad()(lambda: model.of_fbank(ready).cpu()), {"clips": batch}


def training(model: nn.Module, width: int, waves: Tensor, classes: int, rate: float) -> Work:
    """A step on the device's integers: mixup, forward, sub-cluster AdaCos, backward, AdamW."""
    loss, count, device = SubClusterAdaCos(width, classes), len(waves), waves.device
    both = nn.ModuleList([model, loss]).to(device).train()
    trained = [parameter for parameter in both.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    target = F.one_hot(torch.randint(classes, (count,), device=device), classes).float()

    def run() -> None:
        share, chance = torch.rand(2, count, 1, device=device)
        share, partner = share.where(chance < 0.5, 1.0), torch.randperm(count, device=device)
        x, y = (share * a + (1 - share) * a[partner] for a in (waves / 32768, target))
        optimiser.zero_grad()
        loss(model(x), y).backward()
        optimiser.step()

    return run, {"clips": count}


def multiresnet_train(
    device: torch.device, seconds: float = 12, batch: int = 8, classes: int = 16
) -> Work:
    """System 1's training step."""
    model = MultiResNet(round(seconds * RATE))
    return training(model, 512, sound(batch, seconds).to(device), classes, 1e-3)


def beats_train(
    device: torch.device,
    seconds: float = 10,
    batch: int = 8,
    classes: int = 16,
    dtype: str = "float32",
    attention: str = "eager",
    lora: int = 0,
) -> Work:
    """System 2's training step, or System 4's with adapters of rank `lora`."""
    model = BEATsEmbedder(dtype, attention)
    if lora:
        model.beats.adapt(lora)
    waves = sound(batch, seconds).to(device)
    return training(model, 256, waves, classes, 1e-4 if lora else 5e-5)


STAGES: dict[str, Callable[..., Work]] = {
    "gemm": gemm,
    "fbank": fbank,
    "multiresnet_embed": multiresnet_embed,
    "multiresnet_train": multiresnet_train,
    "beats_embed": beats_embed,
    "lora_embed": beats_embed,  # merged adapters cost nothing
    "beats_train": beats_train,
    "lora_train": functools.partial(beats_train, lora=128),
}


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device has finished."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def answer(request: dict[str, Any], built: dict[str, Work]) -> dict[str, Any]:
    stage, options = request.get("stage"), dict(request.get("options", {}))
    if stage == "drop":
        built.clear()
        torch.cuda.empty_cache()
        return {}
    if stage not in STAGES:
        raise ValueError(f"no stage {stage}: choose from {', '.join(STAGES)}")
    torch.set_num_threads(options.pop("threads", None) or os.cpu_count())
    key, device = json.dumps([stage, options], sort_keys=True), options.pop("device", "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"torch {torch.__version__} has no device {device} here")
    device = torch.device(device)
    if key not in built:
        torch.manual_seed(0)
        options = {{"from": "source"}.get(name, name): value for name, value in options.items()}
        work = STAGES[stage](device, **options)
        for _ in range(WARM_UP):
            timed(work[0], device)
        built[key] = work
    run, about = built[key]
    modules = {"torch": torch, "numpy": np}
    return {
        "seconds": [timed(run, device) for _ in range(request.get("repeat", 1))],
        **about,
        "versions": {"python": platform.python_version()}
        | {name: module.__version__ for name, module in modules.items()},
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Answer requests until the last one."""
    built: dict[str, Work] = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request.get("stage") == "quit":
                return
            found = answer(request, built)
        except (ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
