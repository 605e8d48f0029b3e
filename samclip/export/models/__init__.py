"""The merged model in torch, one concept per file."""
