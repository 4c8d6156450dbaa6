"""What keeps a failing model, or a repeated question, from costing much.

breaker      the circuit breaker, and the fallback that a release declares
cache        answers that may be repeated
redis_store  the answers that workers share in Redis
"""
