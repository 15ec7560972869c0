"""What of a study travels in a figure that moves."""

from typing import Any

import numpy as np

from relif_book.evidence.results import ResultSet, title_of
from relif_book.figures.style import colour_of


def methods_data(results: ResultSet) -> dict[str, Any]:
    """Return what the figure "methods" draws: means over seeds, curves, and Bias at own tolerances."""
    table = next(iter(results.summaries.values())).table
    methods = []
    for method, summary in results.summaries.items():
        bias = table.bias_curve[summary.rows].mean(0)
        rate = table.violation_rate_curve[summary.rows].mean(0)
        methods.append(
            {
                "title": title_of(method),
                "colour": colour_of(method),
                "worst": float(np.mean(summary.worst)),
                "bias": bias,
                "violation_rate": rate,
                "own_tolerance": results.mean(method, "induced/test"),
                "own_bias": float(np.mean(summary.raw_bias)),
            }
        )
    return {"tolerances": table.curve_tolerances, "tolerance": table.tolerance, "methods": methods}
