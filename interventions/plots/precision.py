"""The figure of the precision notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..statistics import NEGLIGIBLE
from . import style
from .style import styled

LEAST = 1e-7  # of the axis: where float32 itself ends
SERIES = {  # (method, compared with) -> label
    ("rows", "float32"): "exact mode \u2212 float32",
    ("packed", "float32"): "fast mode \u2212 float32",
    ("packed", "separate"): "fast mode \u2212 separate runs",
    ("rows", "separate"): "exact mode \u2212 separate runs",
}


@styled
def precision_differences(sites: pd.DataFrame) -> Figure:
    """Draw the share of sites whose effect differs by more than x: a line a comparison, a column a dtype.

    A marker ends a line at its largest difference. A note names comparisons whose differences are all 0, which have
    no place on a logarithmic axis. The frame is that of `PrecisionStudy.sites`.
    """
    dtypes = list(dict.fromkeys(sites["dtype"]))
    figure, axes, _ = style.panel_grid([""], range(max(2, len(dtypes))), height=3.1, margin=1.9)
    for axis in axes[0, len(dtypes):]:
        axis.set_visible(False)
    handles = {}
    for axis, dtype in zip(axes[0], dtypes, strict=False):
        axis.axvline(NEGLIGIBLE, ymax=0.8, color=style.FAINT, linewidth=0.8, zorder=0)  # the note is above
        own, equal = sites[sites["dtype"] == dtype], []
        for ((method, other), label), look in zip(SERIES.items(), style.LOOKS, strict=True):
            cells = own[own["method"] == method]
            differences = np.sort((cells["effect"] - cells[other]).abs().to_numpy(float))
            if not differences.any():
                equal.append(label)
                continue
            x = np.r_[LEAST, differences[differences > LEAST]]
            more = (len(x) - 1 - np.arange(len(x))) / len(differences)  # the share of sites beyond x
            color, marker, line = look
            axis.step(x, more, line, where="post", color=color)
            axis.plot(x[-1], 0, marker, color=color, markersize=4, clip_on=False, zorder=3)
            handles[label] = style.legend_line(label, look)
        if equal:
            note = "\n".join([*equal, f"is 0 at all {len(own) // own['method'].nunique()} sites"])
            axis.text(0.97, 0.97, note, transform=axis.transAxes, fontsize=7, ha="right", va="top")
        axis.set_title(style.title(dtype, own["id"].nunique()))
    axes[0, 0].set(xscale="log", xlim=(LEAST, 1), xticks=[1e-6, 1e-4, 1e-2, 1], ylim=(-0.03, 1.03),  # 0 is off the axis
                   ylabel="share of sites with a\nlarger difference")
    axes[0, 0].minorticks_off()
    figure.supxlabel(f"absolute difference of the effect\n(gray line: {NEGLIGIBLE}, the largest negligible effect)")
    style.legend(figure, list(handles.values()), 2)
    return figure
