"""The Spec: the model, its human forms, loading, checking."""
