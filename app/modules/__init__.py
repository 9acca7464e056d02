"""The platform's modules: each with its models, schemas, service and router."""
