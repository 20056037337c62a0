"""Starting workers of deployment versions when their tasks find nobody who polls."""
