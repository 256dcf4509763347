"""Sounds of synthetic machines and their environment at two microphones.

A machine produces harmonics of its shaft, noise and impacts, filtered by the resonances of its
body, at an operating point. The environment has two sources, an air flow and another machine. Each
path from a source to a microphone has its own short room response:

    near = machine + environment        far = attenuated machine + environment, louder and delayed

Faults (impulses of a worn bearing, changed harmonics, an irregular rhythm, a whine, a rub) have a
severity from subtle to obvious. The level at the near microphone depends only on the machine's
load, so that anomalies cannot be detected by loudness.

Shapes: T samples of a clip, n samples computed, F = n // 2 + 1 frequencies. All computations are in
float64 and in a fixed order, so that results are reproducible.
"""

import dataclasses
import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Complex128, Float64
from scipy import fft

SAMPLE_RATE = 16000
Split = Literal["train", "test"]
Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]
Fault = Literal["impulses", "harmonic", "rhythm", "whine", "rub"]

_LEAD = 2400  # samples discarded at the start, while resonances and reverberation build up
_MACHINE_RMS = 0.008  # at the near microphone, full scale 1
_FAR_GAIN_DB = 6.0  # level of the environment: far relative to near microphone
_SENSOR_DB = -30.0  # level of microphone noise relative to the machine at the near microphone
_OPENING = 0.05  # fraction of the cycle at which a valve opens or a slider starts
_FAULT_DB: dict[Fault, tuple[float, float]] = {  # relative to the healthy machine: subtle, obvious
    "impulses": (-14.0, 3.0),
    "whine": (-24.0, 0.0),
    "rub": (-16.0, 3.0),
}


@dataclasses.dataclass(frozen=True)
class _Mechanism:
    """Sound properties of a type of machine."""

    faults: tuple[Fault, ...]
    tonal: float
    """Fraction of the power in harmonics of the shaft."""
    noise: float
    """Fraction of the power in noise."""
    strikes: float
    """Fraction of the power in impacts."""
    shaft_ratio: float = 1.0
    """Shaft revolutions per machine cycle (stroke, opening)."""
    teeth: tuple[int, int] = (0, 0)
    """Range of the number of teeth or blades, whose harmonics have sidebands; 0: none."""
    fault_db: float = 0.0
    """Added to the level of faults: lower for machines with pauses, where faults are audible."""


_MECHANISMS = {
    "rotor": _Mechanism(("impulses", "harmonic", "whine", "rub"), 0.5, 0.5, 0.0, teeth=(4, 9)),
    "gear": _Mechanism(("impulses", "harmonic", "whine", "rub"), 0.7, 0.3, 0.0, teeth=(17, 31)),
    "bearing": _Mechanism(("impulses", "harmonic", "whine", "rub"), 0.4, 0.6, 0.0),
    "valve": _Mechanism(("rhythm", "whine", "rub"), 0.15, 0.4, 0.45, shaft_ratio=80.0),
    "slider": _Mechanism(
        ("rhythm", "impulses", "whine", "rub"), 0.35, 0.5, 0.15, shaft_ratio=30.0, fault_db=-8.0
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Profile:
    """Properties of one machine of the corpus."""

    mechanism: str
    cycle_hz: float
    """Revolutions, strokes or openings per second at speed 1."""
    speeds: dict[Domain, tuple[float, ...]]
    """Operating points. If both domains have the same, their environments differ."""
    attributes: str = ""
    """Template of the attributes, with {letter} and {rpm} of the operating point; empty: hidden."""
    evaluation: bool = False
    numbered_across: bool = False
    """Whether test clips are numbered across domains and labels, not within each."""

    def speed(self, domain: Domain, index: int) -> float:
        """The operating point of a clip; clips cycle through those of the domain."""
        return self.speeds[domain][index % len(self.speeds[domain])]

    def attribute_text(self, domain: Domain, index: int) -> str:
        """The attributes of a clip as in its file name; empty if hidden."""
        everywhere = sorted({*self.speeds["source"], *self.speeds["target"]})
        speed = self.speed(domain, index)
        return self.attributes.format(
            letter="ABCDEFGH"[everywhere.index(speed)], rpm=round(60 * self.cycle_hz * speed)
        )


def _speeds(source: tuple[float, ...], *target: float) -> dict[Domain, tuple[float, ...]]:
    return {"source": source, "target": target or source}


_LOW, _WIDE, _SAME = (0.9, 0.95, 1.0), (0.92, 1.0, 1.08), (0.94, 1.0, 1.06)
PROFILES = {
    "ToyCar": Profile("gear", 11.0, _speeds(_LOW, 1.15, 1.25), numbered_across=True),
    "ToyCarEmu": Profile(
        "gear", 13.0, _speeds(_WIDE, 0.8), "car_{letter}_spd_{rpm}_mic_2_mic_1",
        numbered_across=True,
    ),
    "bearingEmu": Profile("bearing", 31.0, _speeds(_LOW, 1.2)),
    "fan": Profile("rotor", 24.0, _speeds(_SAME), "m-n_{letter}"),
    "gearboxEmu": Profile("gear", 9.0, _speeds(_WIDE, 1.3, 1.4), "spd_{rpm}_pro_Y"),
    "sliderEmu": Profile("slider", 0.9, _speeds(_SAME)),
    "valveEmu": Profile("valve", 1.7, _speeds(_LOW, 1.25)),
    "BlowerDustCollector": Profile("rotor", 47.0, _speeds(_SAME), "loc_{letter}", True),
    "Sander": Profile("rotor", 60.0, _speeds(_WIDE, 0.75), "spd_{rpm}", True),
    "SewingMachine": Profile("slider", 2.1, _speeds(_LOW, 1.3), evaluation=True),
    "ToothBrush": Profile("bearing", 85.0, _speeds(_SAME), evaluation=True),
    "ToyDrone": Profile("rotor", 90.0, _speeds(_WIDE, 1.25), "mic_1_spd_{rpm}_mic_2", True),
}  # fmt: skip


def stream(seed: int, *words: str | int) -> np.random.Generator:
    """A random generator that depends only on the seed and the words."""
    digest = hashlib.sha256("/".join(map(str, (seed, *words))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


class Machine:
    """A machine with its room responses and environments, drawn from its own random stream."""

    def __init__(self, name: str, *, seed: int, seconds: float, noise_db: float, leakage_db: float):
        """Draw the constants of machine `name` (a key of PROFILES); levels as in SynthConfig."""
        self.name, self.seed, self.profile = name, seed, PROFILES[name]
        self.noise_db, self.leakage_db = noise_db, leakage_db
        self.mechanism = mechanism = _MECHANISMS[self.profile.mechanism]
        self.samples = round(seconds * SAMPLE_RATE)
        self.n = fft.next_fast_len(self.samples + _LEAD, real=True)
        self.hz = fft.rfftfreq(self.n, 1 / SAMPLE_RATE)
        rng = stream(seed, name)
        self.fault_order = rng.uniform(3.1, 5.9)
        self.open_share, self.close_strike = rng.uniform(0.3, 0.45), rng.uniform(0.4, 0.9)
        self.body = _body(rng, self.hz)  # [F]
        self.rooms = _rooms(rng, self.n)  # [3 sources, 2 microphones, F]
        self.environments = {"source": _environment(rng, self.hz)}
        other = _environment(rng, self.hz)
        same_speeds = self.profile.speeds["source"] == self.profile.speeds["target"]
        self.environments["target"] = other if same_speeds else self.environments["source"]
        # Scale partials, noise and impacts to their fractions of the power after the body's filter,
        # at speed 1. At another speed the partials meet other resonances.
        shaft_hz = self.profile.cycle_hz * mechanism.shaft_ratio
        power = np.abs(self.body) ** 2
        gate = np.mean(self.gate(np.arange(1000) / 1000) ** 2)
        partials = _partials(rng, mechanism, shaft_hz)
        heard = np.interp(np.arange(len(partials)) * shaft_hz / 2, self.hz, power)
        tonal = gate * np.sum(np.abs(partials) ** 2 * heard) / 2
        self.partials = partials * np.sqrt(mechanism.tonal / tonal)
        self.noise = np.sqrt(mechanism.noise / (gate * np.mean(power)))
        strikes_hz = self.profile.cycle_hz * (1 + self.close_strike**2)
        self.strike = np.sqrt(mechanism.strikes * SAMPLE_RATE / (strikes_hz * np.mean(power)))

    def gate(self, cycle: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Amplitude of harmonics and noise at a position in the machine's cycle (0 to 1)."""
        if self.profile.mechanism == "valve":  # hisses while it is open
            ramps = np.minimum(cycle - _OPENING, _OPENING + self.open_share - cycle)
            return np.clip(50 * ramps, 0, 1)
        if self.profile.mechanism == "slider":  # proportional to the carriage's speed
            return np.abs(np.sin(2 * np.pi * cycle))
        return 1 + 0.2 * np.cos(2 * np.pi * cycle)

    def spectra(
        self, split: Split, domain: Domain, label: Label, index: int
    ) -> tuple[Complex128[np.ndarray, "2 F"], Complex128[np.ndarray, "2 F"]]:
        """Spectra of the machine and of the environment in one clip, near then far."""
        rng = stream(self.seed, self.name, split, domain, label, index)
        machine = self.rooms[0] * self._machine(rng, self.profile.speed(domain, index), label)
        level = 10 ** (0.05 * rng.normal(0, 1.0)) * _MACHINE_RMS  # the load
        machine *= level / self._rms(machine[0])
        machine[1] *= 10 ** (self.leakage_db / 20)

        flow, neighbour = self._environment(rng, domain)
        environment = self.rooms[1] * flow + self.rooms[2] * neighbour
        level = 10 ** (0.05 * (self.noise_db + rng.normal(0, 1.0))) * _MACHINE_RMS
        environment *= level / self._rms(environment[0])
        environment[1] *= 10 ** (_FAR_GAIN_DB / 20)
        sensor = rng.standard_normal((2, 2, len(self.hz)))  # white noise of each microphone
        sensor *= 10 ** (_SENSOR_DB / 20) * _MACHINE_RMS * np.sqrt(self.n / 2)
        environment += sensor[0] + 1j * sensor[1]
        return machine, environment

    def waveform(self, spectra: Complex128[np.ndarray, "2 F"]) -> Float64[np.ndarray, "2 T"]:
        """The waveforms of two spectra, without the discarded start."""
        return fft.irfft(spectra, self.n)[:, _LEAD : _LEAD + self.samples]

    def _rms(self, spectrum: Complex128[np.ndarray, "F"]) -> float:
        """RMS of a spectrum's waveform, up to O(1/n): DC and Nyquist are counted twice."""
        return np.sqrt(2 * np.sum(spectrum.real**2 + spectrum.imag**2)) / self.n

    def _machine(
        self, rng: np.random.Generator, speed: float, label: Label
    ) -> Complex128[np.ndarray, "F"]:
        """Spectrum of the machine, before the room responses."""
        hz = self.profile.cycle_hz * speed * (1 + rng.normal(0, 0.004))
        drift = 1 + 0.003 * _wander(rng, self.n)
        turns = rng.uniform(0, 1) + np.cumsum(hz * drift) / SAMPLE_RATE  # cycles since the start
        partials = self.partials * np.exp(rng.normal(0, 0.08, len(self.partials)))
        fault: Fault | None = None
        severity = 0.0
        if label == "anomaly":
            fault, severity = rng.choice(self.mechanism.faults), rng.uniform(0, 1)
        if fault == "harmonic":
            partials = _changed_partials(rng, partials, severity)

        late, strength = np.zeros(int(turns[-1]) + 1), np.ones(int(turns[-1]) + 1)  # per cycle
        if fault == "rhythm":
            broken = rng.uniform(0, 1, len(late)) < 0.25 + 0.65 * severity
            broken[rng.integers(len(broken))] = True
            dropped = rng.uniform(0, 1, len(late)) < 0.5
            strength[broken & dropped] = 0.1
            late = np.where(broken & ~dropped, rng.uniform(0.15, 0.4, len(late)), late)
        late += rng.normal(0, 0.004, len(late))
        cycle = turns.astype(int)
        gate = self.gate(np.clip(turns - cycle - late[cycle], 0, 1)) * strength[cycle]

        balance = np.exp(rng.normal(0, 0.08, 3))
        noise = rng.standard_normal(self.n) * (1 + 0.1 * _wander(rng, self.n))
        sound = balance[0] * _periodic(partials, turns * self.mechanism.shaft_ratio)
        sound = (sound + balance[1] * self.noise * noise) * gate
        if self.mechanism.strikes:
            begin = np.arange(len(late)) + late + _OPENING
            force = balance[2] * self.strike * strength * np.exp(rng.normal(0, 0.1, len(late)))
            sound += _impulses(turns, begin, force)
            sound += _impulses(turns, begin + self.open_share, self.close_strike * force)
        spectrum = fft.rfft(sound) * self.body
        if fault in _FAULT_DB:
            added = self._added(rng, fault, turns, gate)
            low, high = _FAULT_DB[fault]
            level = 10 ** (0.05 * (self.mechanism.fault_db + low + (high - low) * severity))
            spectrum += added * (level * self._rms(spectrum) / self._rms(added))
        return spectrum

    def _added(
        self,
        rng: np.random.Generator,
        fault: Fault,
        turns: Float64[np.ndarray, "n"],
        gate: Float64[np.ndarray, "n"],
    ) -> Complex128[np.ndarray, "F"]:
        """Spectrum of the sound that a fault adds; its level is arbitrary."""
        shaft = turns * self.mechanism.shaft_ratio
        if fault == "impulses":  # a worn bearing excites the body, mostly at high frequencies
            events = np.arange(int(shaft[-1] * self.fault_order)) + rng.uniform(0, 1)
            events = (events + rng.normal(0, 0.02, len(events))) / self.fault_order
            force = (1 + 0.6 * np.cos(2 * np.pi * events)) * np.exp(rng.normal(0, 0.2, len(events)))
            return fft.rfft(_impulses(shaft, events, force)) * self.body * (self.hz / 8000)
        if fault == "whine":  # follows the shaft's speed, between its harmonics
            shaft_hz = shaft[-1] * SAMPLE_RATE / self.n
            order = np.floor(rng.uniform(900, 3400) / shaft_hz) + 0.37
            whine = np.sin(2 * np.pi * order * shaft) + 0.4 * np.sin(4 * np.pi * order * shaft)
            return fft.rfft(whine * gate)
        centre = rng.uniform(1200, 5000)  # a rub: wide-band noise once per cycle
        touch = np.maximum(0, np.cos(2 * np.pi * (turns - rng.uniform(0, 1)))) ** 2
        return fft.rfft(touch * rng.standard_normal(self.n)) * _resonance(self.hz, centre, 2.0)

    def _environment(
        self, rng: np.random.Generator, domain: Domain
    ) -> tuple[Complex128[np.ndarray, "F"], Complex128[np.ndarray, "F"]]:
        """Spectra of the air flow and of a neighbouring machine, before the room responses."""
        colours, hum_hz, hum = self.environments[domain]
        noise = rng.standard_normal((2, self.n))
        flow = noise[0] * (1 + 0.15 * _wander(rng, self.n))
        clanks = rng.uniform(0, hum_hz * self.n / SAMPLE_RATE, rng.poisson(self.n / 100000))
        time = rng.uniform(0, 1) + hum_hz * np.arange(self.n) / SAMPLE_RATE  # in revolutions
        neighbour = noise[1] * (1 + 0.3 * np.cos(2 * np.pi * time / 8)) + _periodic(hum, time)
        neighbour += _impulses(time, clanks, rng.exponential(5, len(clanks)))
        return fft.rfft(flow) * colours[0], fft.rfft(neighbour) * colours[1]


def _resonance(
    hz: Float64[np.ndarray, "F"], centre: float, quality: float
) -> Complex128[np.ndarray, "F"]:
    """Frequency response of a second-order band-pass with gain 1 at its centre."""
    width = 1j * hz / (quality * centre)
    return width / (1 - (hz / centre) ** 2 + width)


def _body(rng: np.random.Generator, hz: Float64[np.ndarray, "F"]) -> Complex128[np.ndarray, "F"]:
    """Frequency response of a machine's body: a low-pass and six resonances."""
    response = 0.3 / (1 + 1j * hz / 700)
    for centre in np.exp(rng.uniform(np.log(250), np.log(6500), 6)):
        gain = rng.uniform(0.3, 1) * (centre / 250) ** -0.4
        response += gain * _resonance(hz, centre, rng.uniform(5, 25))
    return response


def _rooms(rng: np.random.Generator, n: int) -> Complex128[np.ndarray, "3 2 F"]:
    """Room responses of unit energy, from machine, flow and neighbour to near and far."""
    taps = np.arange(1024)
    responses = np.zeros((3, 2, len(taps)))
    for source in range(3):
        near, later = (4, (40, 90)) if source == 0 else (int(rng.integers(30, 60)), (20, 80))
        for microphone, start in enumerate((near, near + int(rng.integers(*later)))):
            direct_to_reverberant = 4.0 if (source, microphone) == (0, 0) else 1.5
            tail = np.exp(-(taps - start) / rng.uniform(80, 160)) * (taps > start)
            tail *= rng.standard_normal(len(taps))
            tail /= np.sqrt(np.sum(tail**2) * direct_to_reverberant)
            tail[start] = 1
            responses[source, microphone] = tail / np.sqrt(np.sum(tail**2))
    return fft.rfft(responses, n)


def _environment(
    rng: np.random.Generator, hz: Float64[np.ndarray, "F"]
) -> tuple[list[Complex128[np.ndarray, "F"]], float, Complex128[np.ndarray, "orders"]]:
    """Filters of flow and neighbour, and the neighbour's hum: frequency in Hz and partials."""
    flow = (1 + (hz / rng.uniform(150, 500)) ** 2) ** -rng.uniform(0.3, 0.6) + 0j
    neighbour = 0.5 * _body(rng, hz)
    hum = np.zeros(41, complex)
    hum[2::2] = np.exp(rng.normal(0, 0.6, 20)) / np.arange(1, 21)
    return [flow, neighbour], rng.uniform(40, 70), hum


def _partials(
    rng: np.random.Generator, mechanism: _Mechanism, shaft_hz: float
) -> Complex128[np.ndarray, "orders"]:
    """Complex amplitudes of the shaft's half orders, with sidebands of teeth or blades."""
    orders = min(96, int(5000 / (1.5 * shaft_hz)))
    k = np.arange(1, orders + 1)
    amplitude = np.exp(rng.normal(0, 0.5, orders)) * k**-0.8
    if mechanism.teeth[1]:
        stressed = rng.integers(*mechanism.teeth)
        for order in range(stressed, orders - 1, stressed):
            amplitude[order - 2 : order + 1] += np.array([0.3, 1.2, 0.3]) / (order / stressed)
    partials = np.zeros(2 * orders + 1, complex)
    partials[2::2] = amplitude * np.exp(2j * np.pi * rng.uniform(0, 1, orders))
    return partials


def _changed_partials(
    rng: np.random.Generator, partials: Complex128[np.ndarray, "orders"], severity: float
) -> Complex128[np.ndarray, "orders"]:
    """Harmonics of a fault: the strongest fade or move up half an order, or half orders appear."""
    partials, norm = partials.copy(), np.sqrt(np.sum(np.abs(partials) ** 2))
    strongest = np.argsort(np.abs(partials))[-3:]
    kind = rng.integers(3)
    if kind == 0:
        partials[strongest] *= 10 ** (-(3 + 24 * severity) / 20)
    elif kind == 1:
        moved = (0.2 + 0.8 * severity) * partials[strongest]
        partials[strongest] -= moved
        partials[np.minimum(strongest + 1, len(partials) - 1)] += moved
    else:
        partials[1:16:2] += norm * 10 ** ((-24 + 22 * severity) / 20)
    return partials


def _periodic(
    partials: Complex128[np.ndarray, "orders"], turns: Float64[np.ndarray, "n"]
) -> Float64[np.ndarray, "n"]:
    """Sum of a shaft's half orders, interpolated in a table of their period, two revolutions."""
    size = 16384
    table = fft.irfft(partials, size) * (size / 2)
    place = (turns / 2 % 1) * size
    first = place.astype(int)
    table = np.append(table, table[:2])
    return table[first] + (place - first) * (table[first + 1] - table[first])


def _impulses(
    turns: Float64[np.ndarray, "n"],
    events: Float64[np.ndarray, "events"],
    force: Float64[np.ndarray, "events"],
) -> Float64[np.ndarray, "n"]:
    """Impulses where `turns` reaches the events, split linearly over the two nearest samples."""
    n = len(turns)
    inside = (events > turns[0]) & (events < turns[-2])
    place = np.interp(events[inside], turns, np.arange(n))
    first, force = place.astype(int), force[inside]
    share = place - first
    return np.bincount(first, force * (1 - share), n) + np.bincount(first + 1, force * share, n)


def _wander(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n"]:
    """Slow random variation: linear interpolation of two standard normal values per second."""
    step = SAMPLE_RATE // 2
    knots = rng.standard_normal(n // step + 2)
    return np.interp(np.arange(n) / step, np.arange(len(knots)), knots)
