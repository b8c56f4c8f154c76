"""
What docker-compose.yaml asks the environment for: from ``.env`` if there is one, else made here and kept.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

#: Secrets that have no default; the names of ``.env.example``.
SECRETS = (
    *("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
    *("AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_API_SECRET", "AIRFLOW_JWT_SECRET"),
)
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def read_env(file: Path) -> dict[str, str]:
    """Return the values of a file such as ``.env``; quotes around a value are not part of it."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = [_LINE.fullmatch(line) for line in lines]
    return {match[1]: _unquoted(match[2]) for match in found if match}


def made_env(file: Path) -> dict[str, str]:
    """Return secrets of this folder's own, made at first use and kept readable to its owner only."""
    known = read_env(file)
    missing = {name: secrets.token_hex(16) for name in SECRETS if name not in known}
    if "AIRFLOW_FERNET_KEY" not in known:
        from cryptography.fernet import Fernet

        missing["AIRFLOW_FERNET_KEY"] = Fernet.generate_key().decode()
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        begun = file.read_bytes()
        with file.open("a") as out:
            if begun and not begun.endswith(b"\n"):  # edited by hand: nothing may be glued to its last line
                out.write("\n")
            out.writelines(f"{name}={value}\n" for name, value in missing.items())
    return known | missing


def _unquoted(value: str) -> str:
    value = value.strip()
    quoted = re.fullmatch(r"(['\"])(.*)\1(?:\s+#.*)?", value)
    return quoted[2] if quoted else re.sub(r"(^|\s+)#.*", "", value)
