"""Tables of loss curves."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def loss_curves(finetunes: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean and range over fine-tunes of training and validation loss, for `plot_curves` with x="epoch", by="loss".

    Parameters
    ----------
    finetunes : frame as `lib.finetune.finetune` returns it
    by : further columns that separate curves
    """
    long = finetunes.melt([*by, "epoch"], ["train_loss", "valid_loss"], var_name="loss", value_name="nats").dropna()
    long["loss"] = long["loss"].map({"train_loss": "train", "valid_loss": "validation"})
    curves = long.groupby([*by, "loss", "epoch"], sort=False)["nats"].agg(value="mean", low="min", high="max")
    return curves.reset_index().assign(metric="loss", unit="nats per token", x_name="epoch")
