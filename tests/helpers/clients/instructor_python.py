"""instructor: replies as objects of a pydantic class."""

from typing import Literal

import instructor
from common import ASK, MODEL, URL, works
from openai import OpenAI
from pydantic import BaseModel, Field


class Shipment(BaseModel):
    to: Literal["Oslo", "Rome"]
    boxes: int = Field(ge=1, le=9)


def ask(mode):
    client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=mode)
    return client.chat.completions.create(model=MODEL, messages=ASK, response_model=Shipment, max_retries=0)


works("JSON schema", isinstance(ask(instructor.Mode.JSON_SCHEMA), Shipment))
works("demanded call", isinstance(ask(instructor.Mode.TOOLS), Shipment))
