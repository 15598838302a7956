"""Who may do what.

    request ─▶ AccessControl ─▶ identify ─┬─ Authorization: Bearer ─┬─ ApiKeys
                    │                     │                         └─ Tokens ─▶ Provider (discovery, JWKS)
                    │                     └─ cookie ─▶ Sessions
                    └─▶ least role of the route ─▶ scope["user"] ─▶ routes

Nobody is asked while neither a file of API keys nor an OIDC issuer is set.
"""
