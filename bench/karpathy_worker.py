"""Worker of `bench.train_quality` for karpathy/nanochat, run as a file with a checkout of it as the working directory.

`prepare` converts this project's tokenizer to the files that it expects; `evaluate` measures its checkpoint on given rows.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from pathlib import Path


def prepare(exchange: Path) -> None:
    """Writes the tokenizer in `exchange`/tokenizer.json in that project's format."""
    import tiktoken
    import torch
    from nanochat.tokenizer import RustBPETokenizer

    from nanochat.common import get_base_dir

    description = json.loads((exchange / "tokenizer.json").read_text())
    ranks = {base64.b64decode(token): rank for rank, token in enumerate(description["tokens"])}
    encoding = tiktoken.Encoding("shared", pat_str=description["pattern"], mergeable_ranks=ranks, special_tokens=description["special"])
    folder = Path(get_base_dir()) / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    RustBPETokenizer(encoding, "<|bos|>").save(str(folder))
    torch.save(torch.tensor(description["token_bytes"], dtype=torch.int32), folder / "token_bytes.pt")


def evaluate(exchange: Path) -> None:
    """Prints the bits per byte of the newest checkpoint of depth `exchange`/depth on `exchange`/rows.npy."""
    import numpy as np
    import torch
    from nanochat.checkpoint_manager import load_model

    description = json.loads((exchange / "tokenizer.json").read_text())
    model, _, _ = load_model("base", torch.device("cpu"), phase="eval")
    token_bytes = torch.tensor(description["token_bytes"])
    rows = torch.from_numpy(np.load(exchange / "rows.npy").astype(np.int64))
    nats, length = 0.0, 0
    with torch.no_grad():
        for batch in rows.split(8):
            losses = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), loss_reduction="none").view(len(batch), -1)
            lengths = token_bytes[batch[:, 1:]]
            nats += float(losses[lengths > 0].double().sum())
            length += int(lengths.sum())
    print(json.dumps({"bpb": nats / (math.log(2) * length)}))


if __name__ == "__main__":
    sys.path.insert(0, ".")
    {"prepare": prepare, "evaluate": evaluate}[sys.argv[1]](Path(sys.argv[2]))
