"""`headrace ui`: a page that looks at InferenceDeployments and touches none."""
