"""Three records for a collection."""

TEXTS = ["The heart pumps blood.", "Stars shine by fusion.", "A railway crosses the plain."]
IDS = ["heart", "stars", "railway"]
