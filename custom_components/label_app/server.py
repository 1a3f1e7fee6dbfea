"""MONAI Label's web application with three things mended; ``scripts/serve.py`` names it as ``--uvicorn_app``.

- Origins: ``MONAI_LABEL_CORS_ORIGINS`` ends MONAI Label 0.8.5 at its start (it is no JSON), and without it every web page that
  a user has open may call the server. Here they come from ``--conf origins``, joined by commas.
- Callers: an origin that is not let in may not read answers, but its requests are carried out. Here they are refused, and so
  are those for another name than ``--conf hosts``, joined by commas; see `custom_components.label_app.callers`.
- Authentication: MONAI Label 0.8.5 does not say how tokens are signed, so that PyJWT 2 refuses every one of them. Keycloak and
  its like sign with RS256; only that is accepted.
"""

from functools import partial
from types import SimpleNamespace

import jwt
from monailabel.config import settings
from monailabel.endpoints.user import auth

from custom_components.label_app.callers import CallerCheck

origins, hosts = ([one for one in settings.MONAI_LABEL_APP_CONF.get(key, "").split(",") if one] for key in ("origins", "hosts"))
settings.MONAI_LABEL_CORS_ORIGINS = origins
auth.jwt = SimpleNamespace(decode=partial(jwt.decode, algorithms=["RS256"]))

# MONAI Label builds its application when it is imported.
from monailabel.app import app  # noqa: E402

app.add_middleware(CallerCheck, origins=origins, hosts=hosts)

__all__ = ["app"]
