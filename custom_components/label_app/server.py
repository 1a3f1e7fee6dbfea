"""MONAI Label's web application with two things mended; ``scripts/serve.py`` names it as ``--uvicorn_app``.

- Origins: ``MONAI_LABEL_CORS_ORIGINS`` ends MONAI Label 0.8.5 at its start (it is no JSON), and without it every web page that
  a user has open may call the server. Here they come from ``--conf origins``, joined by commas.
- Authentication: MONAI Label 0.8.5 does not say how tokens are signed, so that PyJWT 2 refuses every one of them. Keycloak and
  its like sign with RS256; only that is accepted.
"""

from functools import partial
from types import SimpleNamespace

import jwt
from monailabel.config import settings
from monailabel.endpoints.user import auth

settings.MONAI_LABEL_CORS_ORIGINS = [origin for origin in settings.MONAI_LABEL_APP_CONF.get("origins", "").split(",") if origin]
auth.jwt = SimpleNamespace(decode=partial(jwt.decode, algorithms=["RS256"]))

# MONAI Label builds its application when it is imported.
from monailabel.app import app  # noqa: E402

__all__ = ["app"]
