"""Worker versioning as every service sees it: deployments, versions, build ids, and where their tasks go."""
