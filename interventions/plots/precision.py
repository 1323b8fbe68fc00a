"""The figure of the precision notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..statistics import NEGLIGIBLE
from .style import FAINT, INK, LOOKS, legend_line, panel_grid, styled

LEAST = 1e-7  # of the axis: where float32 itself ends
SERIES = {  # (method, compared with) -> label
    ("rows", "float32"): "exact mode \u2212 float32",
    ("packed", "float32"): "fast mode \u2212 float32",
    ("packed", "separate"): "fast mode \u2212 separate runs",
    ("rows", "separate"): "exact mode \u2212 separate runs",
}


@styled
def precision_differences(sites: pd.DataFrame) -> Figure:
    """The share of sites whose effect differs by more than x, a line a comparison, a column a half-precision type.

    sites: that of `PrecisionStudy.sites`: id, dtype, method, effect, separate, float32. A marker ends a line at
    its largest difference. Differences that are 0 at all sites have no place on a logarithmic axis: a note says so.
    """
    dtypes = list(dict.fromkeys(sites["dtype"]))
    figure, axes = panel_grid(1, [""] * max(2, len(dtypes)), height=3.1, margin=1.9)
    for axis in axes[0, len(dtypes):]:
        axis.set_visible(False)
    handles = {}
    for axis, dtype in zip(axes[0], dtypes, strict=False):
        axis.axvline(NEGLIGIBLE, ymax=0.8, color=FAINT, linewidth=0.8, zorder=0)  # the note is above
        own, equal = sites[sites["dtype"] == dtype], []
        for ((method, other), label), look in zip(SERIES.items(), LOOKS, strict=True):
            cells = own[own["method"] == method]
            differences = np.sort((cells["effect"] - cells[other]).abs().to_numpy(float))
            if not differences.any():
                equal.append(label)
                continue
            x = np.r_[LEAST, differences[differences > LEAST]]
            more = (len(x) - 1 - np.arange(len(x))) / len(differences)  # the share of sites beyond x
            colour, marker, line = look
            axis.step(x, more, line, where="post", color=colour, linewidth=1.2)
            axis.plot(x[-1], 0, marker, color=colour, markersize=4, clip_on=False, zorder=3)
            handles[label] = legend_line(label, look)
        if equal:
            note = "\n".join([*equal, f"is 0 at all {len(own) // own['method'].nunique()} sites"])
            axis.text(0.97, 0.97, note, transform=axis.transAxes, fontsize=7, color=INK, ha="right", va="top")
        axis.set_title(f"{dtype}  (n = {own['id'].nunique()})")
    axis = axes[0, 0]
    axis.set_xscale("log")
    axis.set_xlim(LEAST, 1)
    axis.set_xticks([1e-6, 1e-4, 1e-2, 1])
    axis.minorticks_off()
    axis.set_ylim(-0.03, 1.03)  # a line of few sites lies on 0, and must not lie on the axis
    axis.set_ylabel("share of sites that\ndiffer by more")
    figure.supxlabel(f"absolute difference of the effect (grey line: {NEGLIGIBLE})", fontsize=8)
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2, handlelength=3)
    return figure
