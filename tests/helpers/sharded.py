"""Runs a module with weights sharded (FSDP) over processes without GPUs: accelerate has it for accelerators alone.

As part of a launcher, between its command and the module: ``torchrun ... sharded.py -m MODULE ...``
"""

from __future__ import annotations

import os
import runpy
import sys

os.environ |= {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}  # fmt: skip

import accelerate.state
from accelerate.utils import DistributedType

made = accelerate.state.AcceleratorState.__init__


def make(state: accelerate.state.AcceleratorState, *args: object, **options: object) -> None:
    made(state, *args, **options)
    if options.get("fsdp_plugin") is None:  # a later look at what the first call made
        return
    accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = options["fsdp_plugin"]


accelerate.state.AcceleratorState.__init__ = make
sys.argv = sys.argv[2:]
sys.path.insert(0, "")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
