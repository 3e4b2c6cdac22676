"""The functions study: can a model define a function of which it only ever saw inputs and outputs?"""
