"""llm, a command line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import MODEL, SAID, SCHEMA, URL, is_shipment, works


def llm(*arguments: str) -> str:
    command = [sys.executable, "-m", "llm", "-m", "here", *arguments]
    return subprocess.run(command, env=os.environ | {"LLM_USER_PATH": folder}, check=True, capture_output=True, text=True).stdout.strip()


with tempfile.TemporaryDirectory() as folder:
    lines = [
        "- model_id: here",
        f"  model_name: {MODEL}",
        f"  api_base: {URL}/v1",
        "  supports_schema: true",
        "  supports_tools: true",
    ]
    Path(folder, "extra-openai-models.yaml").write_text("\n".join(lines))
    works("chat", llm("--no-stream", "go"), SAID)
    works("stream", llm("go"), SAID)
    works("tools", llm("--functions", "def calculator(expression: str) -> str:\n    return '42'", "go").replace(" ", ""), SAID)
    works("JSON schema", is_shipment(llm("--schema", json.dumps(SCHEMA), "go")))
