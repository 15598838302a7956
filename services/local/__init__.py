"""The one-machine profile: a broker, the index and the four services under one supervisor."""
