"""PyTorch's part of the speed benchmarks: the layer shapes of asdjax in plain PyTorch.

bench.py starts it with another Python (--torch-python PATH) that has torch and NumPy. Each line of
input is a request for one measurement, and each line of output its answer.

    {"stage": "beats_embed", "options": {"seconds": 10, "batch": 8}, "repeat": 3}
    {"seconds": [...], "clips": 8, "torch": "2.13.0", "threads": 2}

Options are the stage's arguments and "device" (cpu or cuda). There is one thread per processor. A
model is built and run without timing at the first request with its options, and deleted by
{"stage": "drop"}. The process ends with its input. A request that fails is answered by
{"error": "..."}. Kernels and precision are PyTorch's defaults.
"""

import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE, CLASSES = 16000, 16
DROPOUT, LAYER_DROP = 0.1, 0.05  # as BEATs was trained

Linear = functools.partial(nn.Linear, bias=False)  # MultiResNet has no biases
Conv = functools.partial(nn.Conv2d, bias=False)
Norm1d = functools.partial(nn.BatchNorm1d, affine=False)
Norm2d = functools.partial(nn.BatchNorm2d, affine=False)


class SqueezeExcitation(nn.Sequential):
    def __init__(self, size: int):
        hidden = size // 16
        super().__init__(Linear(size, hidden), nn.ReLU(), Linear(hidden, size), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate = super().forward(x.flatten(2).mean(2))
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
        for size in 32, 64, 128:
            layers += [Block(size // 2, size, 2), Block(size, size, 1)]
            height = (height + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.out = nn.Sequential(Norm1d(128 * height), Linear(128 * height, 128))

    def forward(self, waves: Tensor) -> Tensor:
        n_fft, more = len(self.window), {"pad_mode": "constant", "return_complex": True}
        x = torch.stft(waves, n_fft, n_fft // 2, window=self.window, **more)
        x = self.norm(x[:, self.first_bin :].abs() / self.window.norm())
        return self.out(self.layers(x[:, None]).amax(3).flatten(1))


def in_half(dtype: str) -> bool:
    if dtype not in ("float32", "tensorfloat32", "bfloat16"):  # the first two: PyTorch's defaults
        raise ValueError(f"no dtype {dtype}")
    return dtype == "bfloat16"


class MultiResNet(nn.ModuleList):
    def __init__(self, samples: int, dtype: str = "float32"):
        super().__init__([FFTBranch(samples), *map(STFTBranch, (256, 1024, 4096))])
        self.half = in_half(dtype)

    def forward(self, waves: Tensor) -> Tensor:
        with torch.autocast(waves.device.type, torch.bfloat16, enabled=self.half):
            return torch.cat([branch(waves) for branch in self], dim=1).float()


class Fbank(nn.Module):
    """As torchaudio's compliance.kaldi.fbank and BEATs, clip by clip, with the same outputs.

    As there, window and mel bank are computed for each clip, and also the energies of its frames,
    which are not used.
    """

    EPSILON = torch.finfo(torch.float32).eps

    def forward(self, waves: Tensor) -> Tensor:  # [B, T] in [-1, 1] to [B, frames, 128]
        return (torch.stack([self.clip(w) for w in waves]) - 15.41663) / (2 * 6.55582)

    def clip(self, wave: Tensor) -> Tensor:
        frames = (wave * 32768).unfold(0, 400, 160)
        frames = frames - frames.mean(1, keepdim=True)
        frames.square().sum(1).clamp(min=self.EPSILON).log()  # the energies
        before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
        window = torch.hann_window(400, periodic=False, device=wave.device) ** 0.85
        spectrum = torch.fft.rfft(F.pad((frames - 0.97 * before) * window, (0, 112)))
        bank = F.pad(self.bank(), (0, 0, 0, 1)).to(wave.device)  # no band includes Nyquist's bin
        return (spectrum.abs().square() @ bank).clamp(min=self.EPSILON).log()

    def bank(self) -> Tensor:  # [256 bins, 128 bands]
        low, high = (1127 * math.log(1 + hz / 700) for hz in (20, 8000))
        step = (high - low) / 129
        left, centre, right = (low + (torch.arange(128) + i) * step for i in range(3))
        mel = 1127 * (1 + 31.25 * torch.arange(256)[:, None] / 700).log()
        bank = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
        return bank.clamp(min=0)


class LoRALinear(nn.Module):  # x W + b + alpha / rank * (x A) B
    def __init__(self, base: nn.Linear, rank: int, alpha: float = 8.0):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.lora_a, self.lora_b = Linear(base.in_features, rank), Linear(rank, base.out_features)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.lora_b(self.lora_a(x))


class Sizes(NamedTuple):
    layers: int = 12  # BEATs Iter3's
    width: int = 768
    hidden: int = 3072
    heads: int = 12
    features: int = 512


class Attention(nn.Module):
    def __init__(self, sizes: Sizes, table: nn.Embedding):
        super().__init__()
        self.heads, width = sizes.heads, sizes.width
        self.relative_attention_bias = table  # one for all layers
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (p(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in projections)
        sums = self.grep_linear(q).unflatten(3, (2, 4)).sum(-1)
        a, b = torch.sigmoid(sums).chunk(2, dim=-1)
        bias = (a * (b * self.grep_a - 1) + 2) * bias
        dropout = DROPOUT if self.training else 0.0
        # scaled by 1/32 as in the reference, against overflow in half precision
        logits = (q / (32 * math.sqrt(q.shape[-1]))) @ k.transpose(2, 3)
        logits = (logits - logits.amax(-1, keepdim=True)) * 32 + bias
        y = F.dropout(logits.softmax(-1), dropout) @ v
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, sizes: Sizes, table: nn.Embedding):
        super().__init__()
        self.self_attn, width = Attention(sizes, table), sizes.width
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, sizes.hidden), nn.Linear(sizes.hidden, width)
        self.alpha, self.dropout = (2 * sizes.layers) ** 0.25, nn.Dropout(DROPOUT)  # deep norm

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.dropout(self.self_attn(x, bias)))
        y = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        return self.final_layer_norm(self.alpha * x + y)


class Encoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        conv = nn.Conv1d(sizes.width, sizes.width, 128, padding=64, groups=16)
        self.pos_conv = nn.Sequential(nn.utils.parametrizations.weight_norm(conv, dim=2))
        table = nn.Embedding(320, sizes.heads)
        self.layers = nn.ModuleList(Layer(sizes, table) for _ in range(sizes.layers))
        self.layer_norm, self.dropout = nn.LayerNorm(sizes.width), nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.pos_conv(x.transpose(1, 2))[
            :, :, :-1
        ]  # an even kernel gives one position too many
        x = self.dropout(self.layer_norm(x + F.gelu(positions).transpose(1, 2)))
        bias = self.position_bias(torch.arange(x.shape[1], device=x.device))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= LAYER_DROP:
                x = layer(x, bias)
        return x

    def position_bias(self, token: Tensor) -> Tensor:  # [heads, query, key]
        relative = token[None, :] - token[:, None]
        octaves = (relative.abs().clamp(min=80) / 80).log() / math.log(800 / 80)
        far = (80 + (octaves * 80).long()).clamp(max=159)
        bucket = torch.where(relative.abs() < 80, relative.abs(), far)
        table = self.layers[0].self_attn.relative_attention_bias
        return table(bucket + 160 * (relative > 0)).permute(2, 0, 1)


class BEATs(nn.Module):  # filterbank to tokens [B, L, width]; named as its checkpoints
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.patch_embedding = Conv(1, sizes.features, 16, 16)
        self.layer_norm = nn.LayerNorm(sizes.features)
        self.post_extract_proj = nn.Linear(sizes.features, sizes.width)
        self.dropout_input, self.encoder = nn.Dropout(DROPOUT), Encoder(sizes)

    def forward(self, fbank: Tensor) -> Tensor:
        x = self.patch_embedding(fbank[:, None]).flatten(2).transpose(1, 2)
        return self.encoder(self.dropout_input(self.post_extract_proj(self.layer_norm(x))))


class AttnStatPool(nn.Module):  # tokens [B, L, width] to [B, width]
    def __init__(self, width: int, hidden: int):
        super().__init__()
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


class BEATsEmbedder(nn.Module):  # waveforms to embeddings; without `head`, means of tokens
    def __init__(self, head: bool, dtype: str = "float32"):
        super().__init__()
        self.fbank, self.beats = Fbank(), BEATs(Sizes())
        self.half = in_half(dtype)
        self.head = nn.Sequential(AttnStatPool(768, 48), nn.Linear(768, 256)) if head else None

    def forward(self, x: Tensor) -> Tensor:
        fbank = self.fbank(x)
        with torch.autocast(fbank.device.type, torch.bfloat16, enabled=self.half):
            tokens = self.beats(fbank)
        return self.head(tokens.float()) if self.head else tokens.float().mean(1)


def sub_cluster_adacos(x: Tensor, centres: Tensor, target: Tensor) -> Tensor:
    cosine = F.normalize(x) @ F.normalize(centres, dim=0)
    logits = math.sqrt(2) * math.log(centres.shape[1] - 1) * cosine
    return F.cross_entropy(logits.unflatten(1, (target.shape[1], -1)).logsumexp(2), target)


Job: TypeAlias = tuple[Callable[[], Any], dict[str, float]]  # the timed function, facts about it


def sound(batch: int, seconds: float) -> Tensor:
    shape = batch, round(seconds * RATE)
    return torch.from_numpy(np.random.default_rng(0).integers(-9000, 9000, shape, np.int16))


def gemm(device: str, size: int = 2048, dtype: str = "float32") -> Job:
    kind = torch.bfloat16 if in_half(dtype) else torch.float32
    a = torch.ones(size, size, dtype=kind, device=device)
    return lambda: a @ a, {"clips": 1}


def fbank(device: str, seconds: float = 10, batch: int = 8) -> Job:
    """The normalised filterbank, from the host's floats."""
    waves, model = sound(batch, seconds) / 32768, Fbank().to(device)
    return lambda: model(waves.to(device)), {"clips": batch}


def spectrograms(device: str, seconds: float = 12, batch: int = 8) -> Job:
    """The magnitude spectrograms of MultiResNet, from the host's floats."""
    waves = sound(batch, seconds) / 32768
    windows = [torch.hann_window(n, device=device) for n in (256, 1024, 4096)]

    def run() -> list[Tensor]:
        found, on_device = [], waves.to(device)
        for window in windows:
            n_fft, more = len(window), {"pad_mode": "constant", "return_complex": True}
            x = torch.stft(on_device, n_fft, n_fft // 2, window=window, **more)
            found.append(x.abs() / window.norm())
        return found

    return run, {"clips": batch}


def views(device: str, seconds: float = 10, batch: int = 4) -> Job:
    """Channel 1 unchanged and with two Wiener gains, from the host's integers; no diagnostics."""
    pcm = torch.stack([sound(batch, seconds), sound(batch, seconds).flip(1)], dim=1)
    window = torch.hann_window(1024, device=device)

    def run() -> Tensor:
        near, far = (pcm.to(device) / 32768).unbind(1)
        far = far * (near.norm(dim=1) / far.norm(dim=1))[:, None]
        x, y = (torch.stft(a, 1024, 512, window=window, return_complex=True) for a in (near, far))
        share = y.abs().square() / (x.abs().square() + 1e-20)
        made = [near]
        for alpha, beta in (0.5, 0.05), (1.0, 0.01):
            gain = (1 - alpha * share).clamp(beta, 1.0)
            made.append(torch.istft(x * gain, 1024, 512, window=window, length=near.shape[1]))
        return torch.stack(made)

    return run, {"clips": batch}


def embedding(model: nn.Module, waves: Tensor, device: str) -> Job:
    """From the host's integers to the host's floats."""
    model = model.to(device).eval()
    run = torch.no_grad()(lambda: model(waves.to(device) / 32768).cpu())
    return run, {"clips": len(waves)}


def multiresnet_embed(
    device: str, seconds: float = 12, batch: int = 8, dtype: str = "float32"
) -> Job:
    return embedding(MultiResNet(round(seconds * RATE), dtype), sound(batch, seconds), device)


def beats_embed(device: str, seconds: float = 10, batch: int = 8, dtype: str = "float32") -> Job:
    """Mean over tokens."""
    return embedding(BEATsEmbedder(False, dtype), sound(batch, seconds), device)


def training(model: nn.Module, width: int, rate: float, waves: Tensor, device: str) -> Job:
    """A step on the host's integers: mixup, forward, sub-cluster AdaCos, backward, AdamW."""
    model, count = model.to(device).train(), len(waves)
    centres = torch.empty(width, CLASSES * 16, device=device, requires_grad=True)
    trained = [nn.init.xavier_uniform_(centres), *model.parameters()]
    optimiser = torch.optim.AdamW([p for p in trained if p.requires_grad], rate, weight_decay=0.01)
    target = F.one_hot(torch.randint(CLASSES, (count,), device=device), CLASSES).float()

    def run() -> None:
        share, chance = torch.rand(2, count, 1, device=device)
        share, partner = share.where(chance < 0.5, 1.0), torch.randperm(count, device=device)
        batch = waves.to(device) / 32768, target
        x, y = (share * a + (1 - share) * a[partner] for a in batch)
        optimiser.zero_grad()
        sub_cluster_adacos(model(x), centres, y).backward()
        optimiser.step()

    return run, {"clips": count}


def multiresnet_train(
    device: str, seconds: float = 12, batch: int = 8, dtype: str = "float32"
) -> Job:
    model = MultiResNet(round(seconds * RATE), dtype)
    return training(model, 512, 1e-3, sound(batch, seconds), device)


def beats_train(device: str, seconds: float = 10, batch: int = 8, lora: int = 0, **how: str) -> Job:
    """Training of all of BEATs (System 2), or of adapters of rank `lora` (System 4)."""
    model = BEATsEmbedder(True, **how)
    if lora:
        model.beats.requires_grad_(False)
        for attention in (layer.self_attn for layer in model.beats.encoder.layers):
            attention.q_proj = LoRALinear(attention.q_proj, lora)
            attention.v_proj = LoRALinear(attention.v_proj, lora)
    return training(model, 256, 1e-4 if lora else 5e-5, sound(batch, seconds), device)


_STAGES = (
    gemm,
    fbank,
    spectrograms,
    views,
    multiresnet_embed,
    multiresnet_train,
    beats_embed,
    beats_train,
)
STAGES: dict[str, Callable[..., Job]] = {stage.__name__: stage for stage in _STAGES}
STAGES["lora_train"] = functools.partial(beats_train, lora=128)


def answer(request: dict[str, Any], built: dict[str, Job]) -> dict[str, Any]:
    stage, options = request.get("stage"), dict(request.get("options", {}))
    if stage == "drop":
        built.clear()
        torch.cuda.empty_cache()
        return {}
    if stage not in STAGES:
        raise ValueError(f"no stage {stage}: choose from {', '.join(STAGES)}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    key, device = json.dumps([stage, options], sort_keys=True), options.pop("device", "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"torch {torch.__version__} has no device {device} here")
    untimed = 0
    if key not in built:
        torch.manual_seed(0)
        built[key], untimed = STAGES[stage](device, **options), 2
    (run, about), seconds = built.pop(key), []
    for _ in range(untimed + request.get("repeat", 1)):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    built[key] = run, about  # unless it failed
    made_by = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return {"seconds": seconds[untimed:], **about, **made_by}


def main() -> None:
    built: dict[str, Job] = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            found = answer(request, built)
        except (ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
