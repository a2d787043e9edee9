"""Wire formats of styles, whatever they are for. Class names are part of the published API."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from horde.generation.schemas import EXAMPLE_ID, MANY, RequestSingleWarning
from horde.platform.http.fields import Input, Output
from horde.users.shared_key_schemas import SharedKeyDetails

Name = Annotated[str, Field(min_length=1, max_length=100, description="Its name, unlike your others'.")]
Tag = Annotated[str, Field(min_length=1, max_length=25)]
Model = Annotated[str, Field(min_length=1)]
Models = Annotated[
    list[Model], Field(max_length=MANY, description="What to use it with: one to five models.")
]
Tags = Annotated[list[Tag], Field(max_length=MANY, description="Up to ten words to find it by.")]
SharedKeyId = Annotated[
    str,
    Field(
        min_length=36,
        max_length=36,
        description="A shared key of yours that pays for requests with this style. It can then be used in no "
        "other way, until you free it: PATCH /sharedkeys/{sharedkey_id} with style_only false.",
        examples=[EXAMPLE_ID],
    ),
]
Public = Annotated[bool, Field(description="List it. Who knows its id or name may use it all the same.")]
Nsfw = Annotated[bool, Field(description="What it makes may be unsafe. This only informs.")]

ChangedInfo = Annotated[
    str,
    # The published bound; programs send back what they read, which may be empty.
    Field(max_length=1000, description="What it is like.", json_schema_extra={"minLength": 1}),
]


class StyleInput(Input):
    """What every new style says."""

    name: Name
    info: str = Field("", min_length=10, max_length=1000, description="What it is like.")
    public: Public = True
    nsfw: Nsfw = False
    tags: Tags = []
    models: Models = []
    sharedkey: SharedKeyId | None = None


class StylePatch(Input):
    """What to change of a style; what is left out, or null, stays."""

    name: Name | None = None
    info: ChangedInfo | None = None
    public: Public | None = None
    nsfw: Nsfw | None = None
    tags: Tags | None = None
    models: Models | None = None
    sharedkey: SharedKeyId | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        """Programs send whole styles back, with null for what is not set."""
        return without_nulls(given)


def without_nulls(given: Any) -> Any:
    """What was sent without the fields that are null, at any depth but in what special models are sent."""
    if isinstance(given, list):
        return [without_nulls(item) for item in given]
    if not isinstance(given, dict):
        return given
    return {
        name: value if name == "special" else without_nulls(value)
        for name, value in given.items()
        if value is not None
    }


class StyleModify(Output):
    """A style or collection was made or changed."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    message: str = Field("OK", description="OK.")
    warnings: list[RequestSingleWarning] = Field(
        default_factory=list, description="Settings that may not work well with its models."
    )


class ShownStyle(Output):
    """What is shown of every style."""

    skip_none: ClassVar[bool] = True

    id: str = Field(min_length=36, max_length=36, description="Its id.", examples=[EXAMPLE_ID])
    name: str = Field(min_length=1, max_length=100, description="Its name.")
    info: str = Field(
        "", max_length=1000, description="What it is like.", json_schema_extra={"minLength": 10}
    )
    public: bool = Field(True, description="It is listed.")
    nsfw: bool = Field(False, description="What it makes may be unsafe.")
    tags: list[Tag] = Field(default_factory=list, description="Words to find it by.")
    models: list[Model] = Field(default_factory=list, description="What it is used with.")
    use_count: int = Field(0, description="How many requests were made with it.")
    creator: str = Field(description="Who made it.", examples=["somebody#42"])
    shared_key: SharedKeyDetails | None = Field(
        None, description="What pays for requests with it. Its id is shown to its owner only."
    )
    sharedkey: str | None = Field(
        None, min_length=36, max_length=36, description="That id.", examples=[EXAMPLE_ID]
    )


class StyleQuery(Input):
    """Which styles to list."""

    sort: str = Field("popular", description="popular: the most used first; age: the oldest first.")
    page: int = Field(1, description="Which 25 of them; those below 1 count as 1.")
    tag: str | None = Field(None, description="Only those with this tag.")
    model: str | None = Field(None, description="Only those for this model.")
