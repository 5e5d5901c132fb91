"""What clients see: paths, bodies, answers, problem documents, the OpenAPI document."""
