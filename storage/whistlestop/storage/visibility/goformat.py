"""Format values as Go does, for error messages that clients compare."""

from __future__ import annotations

import json

_LARGE = 6


def go_float(value: float) -> str:
    """Return the fewest digits that read back as the same number, with an exponent from a million on."""
    if value == 0:
        return "-0" if str(value)[0] == "-" else "0"
    sign, digits, exponent = _decompose(value)
    if exponent < -4 or exponent >= _LARGE:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    fraction = digits[exponent + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def _decompose(value: float) -> tuple[str, str, int]:
    mantissa, _, exponent = f"{value!r}".lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    all_digits = whole + fraction
    lead = len(all_digits) - len(all_digits.lstrip("0"))
    digits = all_digits.strip("0") or "0"
    return sign, digits, len(whole) - 1 - lead + int(exponent or 0)


def go_quote(text: str) -> str:
    """Return the text in double quotes, with quotes, backslashes and controls escaped."""
    return json.dumps(text, ensure_ascii=False)


def go_value(value: object) -> str:
    """Return what the verb `%v` prints for a decoded JSON value."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case int():
            return go_float(float(value)) if abs(value) < 10**300 else str(value)
        case float():
            return go_float(value)
        case bytes():
            return f"[{' '.join(str(byte) for byte in value)}]"
        case list():
            return f"[{' '.join(go_value(item) for item in value)}]"
        case dict():
            return f"map[{' '.join(f'{key}:{go_value(value[key])}' for key in sorted(value))}]"
        case _:
            return str(value)
