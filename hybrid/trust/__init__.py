"""Who may be sealed to: the trust policy and the verification that turns listed nodes into verified ones.

Pure: evidence arrives as bytes, the clock as a number. SPEC sections 11 to 13.
"""
