"""One of the processes that share an evaluation; prints the result as JSON."""

from __future__ import annotations

import dataclasses
import json

import torch.distributed as dist

from bench.tiny_chat import reciting_model, sum_with_a_tool, tiny_tokenizer
from nanochat.eval.chat_eval import ChatEvalFlags, evaluate_task
from tests.helpers.told import Told

if __name__ == "__main__":
    dist.init_process_group("gloo")
    tokenizer = tiny_tokenizer()
    model = reciting_model(tokenizer, sum_with_a_tool(tokenizer), 60.0, 64)
    results = [
        evaluate_task(model, tokenizer, Told(answers), ChatEvalFlags()) for answers in (["Sum:-done!"] * 3 + ["no"] * 2, ["Sum:-done!"])
    ]
    print(json.dumps([dataclasses.asdict(result) | {"seconds": 0, "sample": 0} for result in results]))
    dist.destroy_process_group()
