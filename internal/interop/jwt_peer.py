"""Verifies our JWTs with PyJWT, and issues some for us.

The test TestJWTInterop drives it: one JSON object in, one out.

    pip install pyjwt cryptography
"""

import json
import sys

import jwt

task = json.load(sys.stdin)
out = {"pyjwt": jwt.__version__}

if task["do"] == "verify":
    if "jwks" in task:
        keys = jwt.PyJWKSet.from_dict(task["jwks"])
        key = keys[jwt.get_unverified_header(task["token"])["kid"]].key
    else:
        key = bytes.fromhex(task["secret"])
    out["header"] = jwt.get_unverified_header(task["token"])
    out["claims"] = jwt.decode(
        task["token"],
        key,
        algorithms=[task["alg"]],
        issuer=task["iss"],
        audience=task["aud"],
        options={"require": ["exp", "iat", "iss", "aud", "jti"]},
    )
else:
    key = task["pem"] if "pem" in task else bytes.fromhex(task["secret"])
    out["token"] = jwt.encode(
        task["claims"],
        key,
        algorithm=task["alg"],
        headers={"typ": "session+jwt", "kid": task["kid"]},
    )

json.dump(out, sys.stdout)
