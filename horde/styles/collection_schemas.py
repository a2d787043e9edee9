"""Wire formats of collections. Class names are part of the published API."""

from typing import Any, Literal

from pydantic import Field, model_validator

from horde.generation.schemas import EXAMPLE_ID, MANY
from horde.platform.http.fields import Input, Output
from horde.styles.schemas import ChangedInfo, Model, Name, Public, without_nulls


class InputModelCollection(Input):
    """A new collection, or what to change of one; what is left out, or null, stays."""

    name: Name | None = None
    info: ChangedInfo | None = None
    public: Public | None = None
    styles: list[Model] | None = Field(
        None,
        max_length=MANY,
        description="Ids or names of its styles, all for images or all for texts; yours, or public ones.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return without_nulls(given)


class ResponseModelStylesShort(Output):
    """A style of a collection."""

    name: str = Field(description="Its full name.", examples=["somebody#42::style::watercolour"])
    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])


class ResponseModelCollection(Output):
    """A named set of styles, one of which is taken by chance for each request."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    name: str = Field(min_length=1, max_length=100, description="Its name.")
    type: Literal["image", "text"] = Field(description="What its styles are for.")
    info: str = Field("", max_length=1000, description="What it is like.", json_schema_extra={"minLength": 1})
    public: bool = Field(True, description="It is listed.")
    styles: list[ResponseModelStylesShort] = Field(default_factory=list, description="Its styles.")
    use_count: int = Field(0, description="How many requests were made with it.")
    creator: str = Field(description="Who made it.", examples=["somebody#42"])


class CollectionQuery(Input):
    """Which collections to list."""

    sort: str = Field("popular", description="popular: the most used first; age: the oldest first.")
    page: int = Field(1, description="Which 25 of them; those below 1 count as 1.")
    type: str = Field("all", description="all, image or text.")
