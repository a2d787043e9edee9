"""Wire formats of text styles. Class names are part of the published API."""

from pydantic import Field

from horde.generation.schemas import MANY, Maybe
from horde.platform.http.fields import Input
from horde.styles.schemas import ShownStyle, StyleInput, StylePatch


class ModelStyleInputParamsKobold(Input):
    """The parameters that a text style sets."""

    frmtadsnsp: Maybe[bool] = Field(None, description="Add a space before the text if it needs one.")
    frmtrmblln: Maybe[bool] = Field(None, description="Remove blank lines.")
    frmtrmspch: Maybe[bool] = Field(None, description="Remove special characters.")
    frmttriminc: Maybe[bool] = Field(None, description="Remove a last sentence that is not complete.")
    rep_pen: Maybe[float] = Field(None, ge=1, le=3, description="How strongly repetitions are avoided,")
    rep_pen_range: Maybe[int] = Field(None, ge=0, le=4096, description="over how many tokens,")
    rep_pen_slope: Maybe[float] = Field(None, ge=0, le=10, description="and how much less the older ones.")
    singleline: Maybe[bool] = Field(None, description="End with the first line.")
    temperature: Maybe[float] = Field(None, ge=0, le=5.0, description="How daring it is.")
    tfs: Maybe[float] = Field(None, ge=0.0, le=1.0, description="Tail free sampling.")
    top_a: Maybe[float] = Field(None, ge=0.0, le=1.0, description="Top-a sampling.")
    top_k: Maybe[int] = Field(None, ge=0, le=200, description="Top-k sampling.")
    top_p: Maybe[float] = Field(None, ge=0.001, le=1.0, description="Top-p sampling.")
    typical: Maybe[float] = Field(None, ge=0.0, le=1.0, description="Typical sampling.")
    sampler_order: Maybe[list[int]] = Field(
        None, max_length=MANY, description="All samplers, in the order in which they are applied."
    )
    use_default_badwordsids: Maybe[bool] = Field(None, description="Avoid the usual unwanted tokens.")
    stop_sequence: Maybe[list[str]] = Field(
        None, max_length=MANY, description="Texts with which generation ends."
    )
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Min-p sampling.")
    smoothing_factor: float = Field(0.0, ge=0.0, le=10.0, description="Quadratic sampling.")
    dynatemp_range: float = Field(0.0, ge=0.0, le=5.0, description="Range of a dynamic temperature.")
    dynatemp_exponent: float = Field(1.0, ge=0.0, le=5.0, description="Its exponent.")


class ModelStyleInputKobold(StyleInput):
    """A new text style."""

    prompt: str = Field("{p}", min_length=3, description="What to ask; {p} stands for somebody's prompt.")
    params: ModelStyleInputParamsKobold = Field(
        default_factory=ModelStyleInputParamsKobold, description="How to generate."
    )


class ModelStylePatchKobold(StylePatch):
    """What to change of a text style."""

    prompt: str | None = Field(
        None,
        min_length=3,
        description="What to ask; {p} stands for somebody's prompt.",
        # Published, while new styles may be shorter.
        json_schema_extra={"minLength": 7},
    )
    params: ModelStyleInputParamsKobold | None = Field(None, description="How to generate.")


class StyleKobold(ShownStyle):
    """A text style."""

    prompt: str = Field("{p}", min_length=3, description="What is asked; {p} stands for somebody's prompt.")
    params: ModelStyleInputParamsKobold | None = Field(None, description="How to generate.")
