"""Start workers of deployment versions when their tasks find no pollers."""
