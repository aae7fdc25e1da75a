"""What a model looks at: drawings of maps, of attention and of what a prediction is made of."""
