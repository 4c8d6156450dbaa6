"""Seatrial: a registered model becomes a release that can be trusted, and stays one.

The map. Imports point downwards only; a test holds it, and that this page names every module.

    cli                 the `seatrial` command
    demo                `seatrial demo` and `release`: the whole path from the prompt
    planner             `seatrial plan`: what a rate takes
    rollouts            `seatrial rollback`, and how a rollout stands
    dossiers            `seatrial dossier`: from a prediction back to its data, looked up again
    ledger_cli          `seatrial ledger`: does the chain hold, and what does it say
    summary             what an installation has to say for itself
    runner              brings assets up to date, one line a step
    definitions         the Dagster code location
    defs/               what is instantiated
        resources       the doors of the installation, for Dagster
        flight_delay/   the example: defs.yaml, data, tables, net, train
    components/         what users instantiate
        served_model    one YAML file → every asset, check, job, sensor and schedule of a model
        registry_sensor a new version or a moved alias → one release
        rollout_sensor  a rollout that took days → recorded
        scaffolder      writes a filled defs.yaml
    assets/             Dagster wiring, one chapter a file
        common          keys, partitions, checks that read recorded verdicts
        optimize        registered_model → onnx_model → rungs → release_model
        package         serving_plan → bento
        load            load_test
        image           image, where services run in containers
        drill           drill: a rollback, rehearsed
        rollout         deployment
        score           scoring_input → scores
        monitor         drift, performance
        report          release_report, monitoring_report
        review          rollout_report
    controller          the process that leads rollouts: look, decide, act
    installation        every door of an installation; the only reader of the environment
    gateways/           one door for each outside system: an abstract class, the real thing, no decisions
        registry        MLflow; mlmodel reads what was registered
        bento_store     BentoML; environments makes the Python it serves from
        containers      images: built, looked into, run; engines are podman, docker, buildah, image_files
                        reads an image
        processes       supervisord
        router          the data plane as everything else knows it
        envoy           the shared address: envoy_config is what it is told once, envoy_clusters of services,
                        envoy_routes of sharing out, envoy_guards of who and what is let in, envoy_types their
                        words; envoy_files are replaced and confirmed, envoy_start is before it runs,
                        envoy_admin what it says
        access_log      what the router writes of every request
        services        a release as a running service
        deployments     one release taking the place of another: services and router follow the ledger
        draining        ends services that nobody waits for any more
        drill           a rollback rehearsed in staging
        telemetry       what is known of both arms of a rollout: logged_requests by the access log (tail reads
                        one that grows), logged_answers by the prediction log, service_counts by /metrics;
                        measuring takes metrics of labels again and again, measures is one of them
        journal         what a rollout looked like from moment to moment
        paired_log      what two releases answered, side by side
        alias           the alias of the registry, which follows the ledger
        client          asks a service
        machine         what this machine is
        traffic         the load generator: load/ is how it sends (exact, sending, wire, http_wire, grpc_wire,
                        progress)
        payloads        real rows as requests: JSON, binary, gRPC
        prediction_log  rows that clients sent, read back
        ledger          who was put into production, when, on what evidence: sql_ledger is what sqlite_ledger
                        and postgres_ledger have in common
        tables          files and folders replaced in one step
        notebooks       papermill
    core/               what is computed and decided: arrays and files in, values out
        errors          what can go wrong, as a tree
        verdict         judgements as values
        spec/           every setting of a model: base, model, gate, serving, watching
        axes            which dimensions are equally long, and how long they may be
        texts           texts in the place of tokens, where a tokenizer was registered
        home            where everything lies on disk
        contracts       deriving a model's contract
        compatibility   may the clients of production talk to a candidate
        rows            rows of Parquet as frames and tensors
        expectations    the contract as a Great Expectations suite
        export          from the registered model to ONNX: program reads it, onnx_file is what may come out,
                        refusals say why it may not
        parity          does the ONNX file answer like its source, at every length
        rungs/          one file each: fp32, fp16, int8_dynamic, int8_per_row, int8_static
        recipe          what a rung is built from
        quantize        what rungs share: a file made ready to be rewritten, calibration as a stream
        activations     the noise of quantization, node by node and in the answers
        evaluate        what a model answers and decides, how far answers move
        metrics         what the gate can judge by: auc, own_metric; estimates are what it says, unfit why not
        reliability     do probabilities mean what they say
        slices          worse for some, though not overall
        fairness        gaps between groups
        invariance      does a row's answer depend on its batch mates
        speed           rungs timed turn about
        trial           builds, times, loads and judges every rung
        findings        what speaks against a rung or a version, in sentences
        gate            what may be served
        ladder          the table of rungs; which one won and why; charts draw it
        picture         a figure as a PNG, and what all charts have in common
        steps           making artifacts from files
        how             how an artifact was made, and its replay without Dagster
        packing         the manifest; does the bento answer like its model
        latency         what is offered in a load test, and the figures of what came
        capacity/       what a release can carry: measured, foretold, proven
            profile         what a model costs on a machine: measuring finds out, in batches of real rows, and
                            crowding when sessions are beside each other
            simulation      load on a plan without a server: worker is one process of it
            calibrating     what a load test teaches a profile
            proposal        a demand, and the plan that was derived from it
            search          the plan that keeps a promise with the fewest cores: candidates are what may be
                            tried, foresight what they would do, reasons and advice say it in sentences
            course          the order of a load test; readings are what the service says meanwhile
            proof           what it did, as it is kept; gate judges it
            outlook         headroom, machines and costs for a rate
            fleet           how many machines a rate takes, and what failures do
            charts          latency against throughput, by percentile; inside the service; timelines
        rollout/        how a release takes the place of another
            standing        how a model stands by its ledger
            routing         what router and services are to do by that; routes are how requests are shared out
            controller      what is done next: a pure state machine
            plan            steps, weights, limits and deadlines, as data; strategies are the usual ones
            sample_size     how many users an experiment takes
            observation     what is known of it at one moment
            guardrails      what must hold, judged by statistics that may be watched: sequential has the
                            shared parts, then effects, means, quantiles, spreads
            watch           what is to be looked at; answers puts answers into bins, counting says whose a
                            request is
            agreement       what a shadow has shown; tally counts numbers in bins
            stratified      an A/B by users, stratum by stratum; experiment is all of it, in words
            rehearsal       how a rehearsed rollback went, judged
            timeline        a rollout as its report gets it; charts draw it
        release         what is put into production
        entries         lines of the ledger, and their chain
        image           what is known of a container image, and whether it may serve
        dossier         everything about a release in one document; gathering makes it, exhibits are its files
        evidence        the evidence of a release, read again before it serves
        candidates      which registered versions to release
        scoring         Parquet → ONNX Runtime → Parquet, streamed
        drift           a month against the reference (Evidently)
        performance     a month against its labels

Beside it, `bentos/` is what ships inside the service and imports nothing of this.
"""
