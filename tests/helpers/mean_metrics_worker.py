"""One of two processes that average metrics of which each has measured others; prints the means and the slowest as JSON."""

from __future__ import annotations

import json

import torch
import torch.distributed as dist

from nanochat.train.reduce_metrics import mean_metrics, slowest

MEASURED = ([{"all": 1.0, "first": 5.0}, {"all": 2.0, "é": 1.0}], [{"all": 6.0}, {"a much longer name of the second": 7.0}])

if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(json.dumps(mean_metrics(MEASURED[dist.get_rank()], torch.device("cpu"))))
    print(json.dumps(mean_metrics([{}], torch.device("cpu"))))
    print(json.dumps(slowest([7.5, 9.25][dist.get_rank()])))
    dist.destroy_process_group()
