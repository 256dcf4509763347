"""What the thresholds imply: the false alarms among the normal training clips."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from asdjax.config.interfaces import Threshold

SCHEMA = "asdjax.thresholds/1"


def summary(rows: Sequence[Mapping[str, str]], decision: Threshold) -> dict[str, Any]:
    """The threshold and false alarms of each section of a machine, from its rows of scores.

    Returns:
        By section: `method`, `level`, `threshold`; by domain, the number of training `clips` and
        the `false_alarm_rate` of their leave-one-out scores, None without clips;
        `expected_false_alarms`, the bounds of the central 99 % interval of the binomial
        distribution of alarms with probability 1 - level, both domains together; and
        `far_from_level`, whether the number of alarms is outside. The threshold was fitted to these
        scores, so the count should lie inside. If not, the method does not suit the scores. (False
        for a threshold that does not follow `level`.)
    """
    result = {}
    for section in sorted({row["section"] for row in rows}):
        train = [r for r in rows if r["section"] == section and r["split"] == "train"]
        alarms = {
            domain: [row["decision"] == "1" for row in train if row["domain"] == domain]
            for domain in ("source", "target")
        }
        both = alarms["source"] + alarms["target"]
        fewest, most = map(int, stats.binom.interval(0.99, len(both), 1 - decision.level))
        result[section] = {
            "method": decision.method,
            "level": decision.level,
            "threshold": float(train[0]["threshold"]),
            "clips": {domain: len(a) for domain, a in alarms.items()},
            "false_alarm_rate": {
                domain: sum(a) / len(a) if a else None for domain, a in alarms.items()
            },
            "expected_false_alarms": [fewest, most],
            "far_from_level": decision.uses_level and not fewest <= sum(both) <= most,
        }
    return result


def sentence(facts: Mapping[str, Any], decision: Threshold) -> str:
    """One section of `summary` as a sentence."""
    method, meant = facts["method"], 100 * (1 - facts["level"])
    rates = ", ".join(
        f"{domain} {100 * rate:.1f} % of {facts['clips'][domain]}"
        for domain, rate in facts["false_alarm_rate"].items()
        if rate is not None
    )
    fewest, most = facts["expected_false_alarms"]
    far = f"; far from the {meant:.3g} % meant, {fewest} to {most} clips: "
    far += decision.why_far_from_level
    level = f", level {facts['level']:g}" if decision.uses_level else ""
    return (
        f"threshold {facts['threshold']:.6g} ({method}{level}); false alarms "
        f"among leave-one-out scores: {rates} clips{far if facts['far_from_level'] else ''}"
    )
