"""A discrete-event simulation of replicas under recorded load: what would an autoscaler have done, and at what cost?"""
