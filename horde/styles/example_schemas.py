"""Wire formats of examples. Class names are part of the published API."""

from typing import Any

from pydantic import Field, model_validator

from horde.platform.http.fields import Input
from horde.styles.schemas import without_nulls


class InputStyleExamplePost(Input):
    """A new example, or what to change of one."""

    url: str | None = Field(
        None,
        max_length=2000,
        description="Where the picture is: an https address.",
        examples=["https://example.com/a.webp"],
    )
    primary: bool | None = Field(None, description="Show this one first, and no other one.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return without_nulls(given)
