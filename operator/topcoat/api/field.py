"""Types of single fields: names, quantities, decimal strings, times. Limits live here, once.

There are no floats in the API: a fraction is a decimal string, so that every YAML tool keeps it as written.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DECIMAL_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
FRACTION_PATTERN = r"^(0(\.[0-9]{1,12})?|1(\.0{1,12})?)$"
BELOW_ONE_PATTERN = r"^0(\.[0-9]{1,12})?$"
CONFIDENCE_PATTERN = r"^0\.[5-9][0-9]{0,5}$"
QUANTITY_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
RELATIVE_PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


def _decimal_is_a_string(value: Any) -> Any:
    """YAML reads 0.1 as a float; say what to write instead of guessing its digits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'must be a decimal string: write "{value}" with quotes')  # noqa: TRY004 (pydantic's protocol)
    return value


# The JSON schema of the string must be given again: a BeforeValidator may accept anything, so pydantic asks for it.
_DecimalText = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN, max_length=28)]
_FractionText = Annotated[str, StringConstraints(pattern=FRACTION_PATTERN, max_length=16)]
_BelowOneText = Annotated[str, StringConstraints(pattern=BELOW_ONE_PATTERN, max_length=16)]
_ConfidenceText = Annotated[str, StringConstraints(pattern=CONFIDENCE_PATTERN, max_length=8)]

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=63)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Text = Annotated[str, StringConstraints(max_length=1024)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Decimal = Annotated[_DecimalText, BeforeValidator(_decimal_is_a_string, json_schema_input_type=_DecimalText)]
Fraction = Annotated[_FractionText, BeforeValidator(_decimal_is_a_string, json_schema_input_type=_FractionText)]
BelowOne = Annotated[_BelowOneText, BeforeValidator(_decimal_is_a_string, json_schema_input_type=_BelowOneText)]
Confidence = Annotated[_ConfidenceText, BeforeValidator(_decimal_is_a_string, json_schema_input_type=_ConfidenceText)]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=28)]
Time = Annotated[str, StringConstraints(pattern=TIME_PATTERN, max_length=40)]
RelativePath = Annotated[str, StringConstraints(pattern=RELATIVE_PATH_PATTERN, max_length=253)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
Seed = Annotated[int, Field(ge=0, le=2_147_483_647)]
Version = Annotated[str, StringConstraints(pattern=r"^v[1-9][0-9]{0,8}$", max_length=10)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Uri = Annotated[
    str,
    StringConstraints(pattern=r"^(hf|pvc|s3|file)://[A-Za-z0-9._~/@:+ -]+$", min_length=6, max_length=512),
]
