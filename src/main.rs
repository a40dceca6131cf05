use shadernet::engine::{Engine, Setup, Vector};
fn main() {
    let model =
        shadernet::model::Model::parse(include_str!("../data/models/seed.toml"), "seed.toml").unwrap();
    let data = shadernet::dataset::Dataset::load(std::path::Path::new("data/mnist")).unwrap();
    let mut train = model.train.clone();
    train.batch_size = 128;
    let adapters = shadernet::gpu::Adapters::find();
    println!("{}", adapters.listing());
    let gpu = adapters.open(0).unwrap();
    let setup = Setup {
        model: &model,
        train: &train,
        seeds: &[0],
        shuffle: true,
        mean: 0.1307,
        std: 0.3081,
        training: Some(&data.train),
        test: &data.test,
    };
    let t = std::time::Instant::now();
    let mut engine = shadernet::gpu::GpuEngine::new(gpu, &setup, true, Default::default()).unwrap();
    let init = model.init(0);
    engine.write(Vector::Weights, 0, &init).unwrap();
    engine.write(Vector::Average, 0, &init).unwrap();
    println!("made {:?}", t.elapsed());
    for _ in 0..10 {
        let t = std::time::Instant::now();
        let m = engine.train(10).unwrap()[0];
        println!(
            "loss {:.4} acc {:.2} {:?} a step; guards {:?}",
            m.loss(),
            m.accuracy(),
            t.elapsed() / 10,
            engine.broken_guards().unwrap()
        );
    }
    let t = std::time::Instant::now();
    let m = engine.evaluate(true).unwrap()[0];
    println!(
        "test loss {:.4} acc {:.2} {:?}",
        m.loss(),
        m.accuracy(),
        t.elapsed()
    );
}
