"""pydantic-ai: agents that call functions of the program."""

import asyncio
from typing import Literal

from common import MODEL, SAID, URL, works
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Shipment(BaseModel):
    to: Literal["Oslo", "Rome"]
    boxes: int = Field(ge=1, le=9)


model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
asked = []


def calculator(expression: str) -> str:
    """Calculates."""
    asked.append(expression)
    return "42"


async def streamed() -> str:
    async with Agent(model).run_stream("go") as reply:
        return await reply.get_output()


works("chat", Agent(model).run_sync("go").output, SAID)
works("stream", asyncio.run(streamed()), SAID)
works("tools", (Agent(model, tools=[calculator]).run_sync("go").output, asked), ("-done!", ["6*7"]))
works("demanded call", type(Agent(model, output_type=Shipment).run_sync("go").output), Shipment)
works("JSON schema", type(Agent(model, output_type=NativeOutput(Shipment)).run_sync("go").output), Shipment)
