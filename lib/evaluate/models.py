"""Which models of a run are asked, of the table that `lib.finetune` makes: the final ones, and those on the way."""

from __future__ import annotations

import numpy as np
import pandas as pd


def final_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The models that carry the results, of `lib.finetune`'s table; ``epoch`` is NaN."""
    return finetunes[finetunes["is_final"]].assign(epoch=np.nan)


def curve_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The main models after each epoch, and before the first; none where a model was trained elsewhere."""
    main = finetunes[(finetunes["role"] == "main") & (finetunes["n_epochs"] > 0)]
    untrained = main[main["is_final"]].assign(epoch=0)
    untrained = untrained.assign(model=untrained["base"])
    return pd.concat([untrained, main], ignore_index=True).astype({"epoch": float})
